"""Objects in boxes: COCO's files, the letterbox that brings an image to the canvas of a batch, training geometry."""
