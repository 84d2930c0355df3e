"""Key points and classes of published data sets: what they are called, drawn in, and exchanged for in a mirror."""
