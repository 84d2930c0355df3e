"""From files to batches: text files read with care, the data set of a split, and the samplers that order it."""
