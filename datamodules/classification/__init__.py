"""Images with one class each: folders of them, and ImageNet."""
