"""How samples become batches: the data set of a split, and the samplers that say in which order it is read."""
