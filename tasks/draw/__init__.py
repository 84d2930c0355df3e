"""What is shown: overlays on images, charts and feature maps (`draw_pose(image, keypoints, ...)` and others).

The Lightning callbacks that show an evaluation are in `pictures.py` and `tables.py`: `Pictures`, `Tables`, `Samples`.
"""

from tasks.draw.charts import draw_confusion
from tasks.draw.detection import draw_boxes, draw_detection
from tasks.draw.overlays import (
    beside,
    class_colours,
    class_table,
    draw_caption,
    draw_errors,
    draw_heatmaps,
    draw_keypoint_names,
    draw_labels,
    draw_legend,
    draw_mask,
    draw_pose,
    draw_segmentation,
    grid,
    print_tables,
    side_colours,
)

__all__ = [
    "beside",
    "class_colours",
    "class_table",
    "draw_boxes",
    "draw_caption",
    "draw_confusion",
    "draw_detection",
    "draw_errors",
    "draw_heatmaps",
    "draw_keypoint_names",
    "draw_labels",
    "draw_legend",
    "draw_mask",
    "draw_pose",
    "draw_segmentation",
    "grid",
    "print_tables",
    "side_colours",
]
