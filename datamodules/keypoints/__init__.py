"""Key points: persons of a data set, the crop around one, and COCO's files."""
