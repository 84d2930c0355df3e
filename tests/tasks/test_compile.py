"""`compile: true`: the backbone is one graph, and the last batch, which is smaller, compiles nothing anew."""

import pytest
import torch
from torch import nn

from hrnet import HRNet
from tasks import ClassificationTask, DetectionTask, LandmarkTask, MultiTask, PoseTask, SegmentationTask

SIZE = (64, 64)
TASKS = {
    "pose": lambda: PoseTask(HRNet("w18_small_v1", multi_scale_output=False), 3),
    "landmarks": lambda: LandmarkTask(HRNet("w18_small_v1", upsample="bilinear"), 5),
    "segmentation": lambda: SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 4),
    "segmentation by OCR": lambda: SegmentationTask(
        HRNet("w18_small_v1", upsample="bilinear"), 4, head="ocr", ocr_channels=(32, 16)
    ),
    "classification": lambda: ClassificationTask(HRNet("w18_small_v1"), 7),
    "detection": lambda: DetectionTask(HRNet("w18_small_v1"), 3, detector="fcos", channels=32),
    "joint": lambda: MultiTask(
        HRNet("w18_small_v1"),
        {"pose": lambda b: PoseTask(b, 3), "parts": lambda b: SegmentationTask(b, 4)},
    ),
    "checkpointed": lambda: PoseTask(HRNet("w18_small_v1", multi_scale_output=False, gradient_checkpointing=True), 3),
}


class Counting:
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: list) -> nn.Module:
        self.graphs += 1
        return module


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.slow
def test_one_graph_for_training_and_one_for_evaluation(name):
    torch.compiler.reset()
    torch.manual_seed(0)
    task, counting = TASKS[name](), Counting()
    task.backbone.compile(backend=counting, fullgraph=True)  # an error where a graph would be broken
    for training in (True, False):
        task.train(training)
        for count in (4, 4, 3, 2):
            with torch.set_grad_enabled(training):
                task(torch.rand(count, 3, *SIZE).contiguous(memory_format=torch.channels_last))
    assert counting.graphs == 2
