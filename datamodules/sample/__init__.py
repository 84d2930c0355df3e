"""The embedded sample data: people and faces, rendered once, in the layout of each data set (`root: sample`)."""

from datamodules.sample.coco import VERSION, render_scene, sample_coco
from datamodules.sample.faces import render_face
from datamodules.sample.mpii import sample_mpii

__all__ = ["VERSION", "render_face", "render_scene", "sample_coco", "sample_mpii"]
