"""The embedded sample data: pictures of people, rendered once, in the layout of each data set (`root: sample`)."""

from datamodules.sample.coco import VERSION, render_scene, sample_coco

__all__ = ["VERSION", "render_scene", "sample_coco"]
