"""Faces with landmarks: the four data sets of the paper, lists of one's own, and what they share."""
