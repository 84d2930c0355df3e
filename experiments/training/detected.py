"""Poses on boxes of the run's own detector: `val/pose/AP_detected` beside the AP on annotated boxes.

Top-down figures are read with a detector's boxes (CVPR 2019, section 4.1). A joint run that detects the persons and
poses them has both; what it loses by its own boxes is what prediction on a photo loses.
"""

from collections import Counter
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback

from datamodules.keypoints.detections import FoundBoxes, person_labels


class PosesOnDetections(Callback):
    """After each whole evaluation of a joint run, evaluates its pose task once more on what its detection task found.

    Args:
        pose: Name of the pose task.
        detection: Name of the detection task; its data are of the same images as those of the pose task, which are one
            data set, measured by AP.
        threshold: Boxes with a lower score are left out; COCO's AP needs few of them, and each costs a pass.
        boxes_per_image: How many are posed at most, the best; COCO's evaluation looks at 20 poses an image.
    """

    def __init__(
        self, pose: str = "pose", detection: str = "detection", threshold: float = 0.05, boxes_per_image: int = 20
    ) -> None:
        self.pose, self.detection = pose, detection
        self.threshold, self.boxes_per_image = threshold, boxes_per_image

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError if the run has no such tasks, or one whose poses no detected boxes can be measured on."""
        task: Any = pl_module
        if missing := [name for name in (self.pose, self.detection) if name not in task.parts]:
            names = ", ".join(name or type(task).__name__ for name in task.parts)
            raise ValueError(f"PosesOnDetections is about the tasks {', '.join(missing)}; this run has {names}.")
        metric = task.parts[self.pose].monitor.partition("/")[2]
        if metric != "AP":
            raise ValueError(
                f"PosesOnDetections compares AP on detected boxes with AP on annotated ones, and the task {self.pose} "
                f"is measured by {metric}, which is of annotated boxes by its definition: leave this callback out of "
                "trainer.callbacks."
            )
        sources = cast(Any, trainer).datamodule.tasks[self.pose].parts
        if "" not in sources:
            raise ValueError(
                f"PosesOnDetections poses what is found on the images of one data set, and those of {self.pose} are a "
                f"mixture of {', '.join(sources)}: leave this callback out of trainer.callbacks, or give {self.pose} "
                "the one data set whose images the detection task has."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log, unless only some batches were evaluated."""
        task: Any = pl_module
        data = cast(Any, trainer).datamodule.tasks
        if trainer.sanity_checking or task.partial or data[self.pose].overfit is not None:
            return
        found = self._found(task.parts[self.detection], data[self.detection])
        # Of fewer boxes than processes not every process has one: a detector in its first steps, and as good as none.
        value = self._evaluated(trainer, task, found) if len(found.boxes) >= trainer.world_size else 0.0
        task.log(f"{task.split}/{self.pose}/AP_detected", value, sync_dist=False)

    on_test_epoch_end = on_validation_epoch_end

    def _evaluated(self, trainer: Trainer, task: Any, found: FoundBoxes) -> float:
        """The pose task's monitored metric on these boxes."""
        pose, data = task.parts[self.pose], cast(Any, trainer).datamodule.tasks[self.pose].evaluated_on(found)
        annotated = pose.metric
        pose.metric = annotated.clone()  # the figures on annotated boxes are still to be computed
        try:
            pose.reset()
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                for batch in data.test_dataloader() if task.split == "test" else data.val_dataloader():
                    batch = {self.pose: move_data_to_device(batch, task.device)}
                    task.update(task.predict(task.outputs(batch), batch), batch)
            return pose.compute()[pose.monitor.partition("/")[2]]
        finally:
            pose.metric = annotated

    def _found(self, detector: Any, data: Any) -> FoundBoxes:
        """The persons' boxes of all processes, from the metric that has just gathered them."""
        detector.metric.compute()
        categories = data.ground_truth("val")["categories"]
        persons = {categories[label]["id"] for label in person_labels([row["name"] for row in categories])}
        rows: list[dict[str, Any]] = []
        counts: Counter[Any] = Counter()
        for row in sorted(detector.metric.results(), key=lambda row: -row["score"]):
            if row["category_id"] in persons and row["score"] >= self.threshold:
                counts[row["image_id"]] += 1
                if counts[row["image_id"]] <= self.boxes_per_image:
                    rows.append(row)
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return FoundBoxes([row["image_id"] for row in rows], boxes, np.array([row["score"] for row in rows]))
