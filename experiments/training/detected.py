"""Poses on boxes of the run's own detector: `val/pose/AP_detected` beside the AP on annotated boxes.

Top-down figures are read with a detector's boxes (CVPR 2019, section 4.1). A joint run that detects the persons and
poses them has both; what it loses by its own boxes is what prediction on a photo loses.
"""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules.keypoints.detections import FoundBoxes, person_labels


class PosesOnDetections(Callback):
    """After each whole evaluation of a joint run, evaluates its pose task once more on what its detection task found.

    Args:
        pose: Name of the pose task.
        detection: Name of the detection task; its data are of the same images as those of the pose task.
        threshold: Boxes with a lower score are left out; COCO's AP needs few of them, and each costs a pass.
    """

    def __init__(self, pose: str = "pose", detection: str = "detection", threshold: float = 0.05) -> None:
        self.pose, self.detection, self.threshold = pose, detection, threshold

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError if the run has no such tasks."""
        task: Any = pl_module
        if missing := [name for name in (self.pose, self.detection) if name not in task.parts]:
            names = ", ".join(name or type(task).__name__ for name in task.parts)
            raise ValueError(f"PosesOnDetections is about the tasks {', '.join(missing)}; this run has {names}.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log, unless only some batches were evaluated."""
        task: Any = pl_module
        if trainer.sanity_checking or task.partial:
            return
        pose, data = task.parts[self.pose], trainer.datamodule.tasks
        part = data[self.pose].evaluated_on(self._found(task.parts[self.detection], data[self.detection]))
        annotated = pose.metric
        pose.metric = annotated.clone()  # the figures on annotated boxes are still to be computed
        try:
            pose.reset()
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                for batch in part.test_dataloader() if task.split == "test" else part.val_dataloader():
                    batch = {self.pose: trainer.strategy.batch_to_device(batch)}
                    task.update(task.predict(task.outputs(batch), batch), batch)
            average_precision = pose.compute()[pose.monitor.partition("/")[2]]
        finally:
            pose.metric = annotated
        name = f"{task.split}/{self.pose}/AP_detected"
        task.log(name, average_precision, sync_dist=False, rank_zero_only=False)

    def _found(self, detector: Any, data: Any) -> FoundBoxes:
        """The persons' boxes of all processes, from the metric that has just gathered them."""
        detector.metric.compute()
        categories = data.ground_truth("val")["categories"]
        persons = {categories[label]["id"] for label in person_labels([row["name"] for row in categories])}
        rows = [
            row for row in detector.metric.results() if row["category_id"] in persons and row["score"] >= self.threshold
        ]
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return FoundBoxes([row["image_id"] for row in rows], boxes, np.array([row["score"] for row in rows]))
