"""Speed of the ways that a network may run in: rewritten, in bfloat16, exported, and quantised, in one comparison each.

Pose gives heatmaps of normalised images, against timm's network; segmentation gives labels of uint8 images, against the
published order (everything at the finest size, concatenated, mixed there) in plain eager NCHW. Networks are untrained,
so the numbers of bfloat16 and int8 are only seen to be no others; what these cost in accuracy stands where a trained
network is exported.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmark.networks import concatenated, networks
from experiments.benchmark.timing import Comparison, Setting, Variant
from experiments.benchmark.variants import Run, check, made, nhwc, random
from experiments.export.files import RUN, WRITE, traced
from experiments.export.graph import Deployed
from experiments.export.quantised import quantise
from experiments.predict.runtime import in_bfloat16
from hrnet import HRNet, for_inference
from hrnet.processor import has_bfloat16
from tasks import SegmentationTask, Task

EXACT, ROUNDED, COARSE = 1e-3, 0.7, 1.5  # relative errors at the end of an untrained network
FLOAT32, BF16, EXPORTED, EXPORTED_BF16, INT8 = "float32", "bf16", "exported", "exported bf16", "int8"
POSE_TARGETS = {
    1: {FLOAT32: 1.8, BF16: 3.0, EXPORTED: 2.4, EXPORTED_BF16: 4.5, INT8: 5.5},
    8: {FLOAT32: 1.5, EXPORTED: 1.6},
}
SEGMENTATION_TARGETS = {
    "w18": {FLOAT32: 2.2, EXPORTED: 2.0, EXPORTED_BF16: 3.9},
    "w48": {FLOAT32: 1.6, EXPORTED: 1.5, EXPORTED_BF16: 2.7},
}


def runtimes(setting: Setting) -> Iterator[Comparison]:
    """Pose W32 256x192 at batch 1 and 8, V2-W18 and V2-W48 at 512x1024."""
    theirs, ours, size = networks(setting.quick)
    theirs.eval(), ours.eval()
    for batch in (1,) if setting.quick else (1, 8):
        images = random(setting, batch, 3, *size)
        make = partial(Deployed, decode=False, normalised=True)
        name = f"pose {size[0]}x{size[1]}, batch {batch}"
        yield _comparison(
            name, "timm, NCHW", partial(_inferred, theirs), ours, make, images, POSE_TARGETS.get(batch, {})
        )
    size = (64, 64) if setting.quick else (512, 1024)
    for variant in ("w18_small_v1",) if setting.quick else ("w18", "w48"):
        task = _segmenter(variant)
        images = (255 * random(setting, 1, 3, *size)).byte()
        published = deepcopy(task)
        published.from_streams = partial(_as_published, published)
        name = f"V2-{variant} {size[0]}x{size[1]} to labels, batch 1"
        peer = partial(_inferred, Deployed(published))
        targets = SEGMENTATION_TARGETS.get(variant, {})
        yield _comparison(name, "published order, NCHW", peer, task, Deployed, images, targets)


def _comparison(
    name: str,
    peer: str,
    theirs: Callable[[Tensor], Any],
    task: Task,
    make: Callable[[Task], Deployed],
    images: Tensor,
    targets: dict[str, float],
) -> Comparison:
    expected = _only(theirs(images))

    def variant(label: str, prepare: Callable[[], Callable[[Tensor], Any]], error: float, kind: str = "") -> Variant:
        def run() -> Run:
            network = prepare()
            return lambda: _only(network(images))

        agrees = partial(_agrees, expected=expected, tolerance=error)
        return made(label, run, agrees, "cpu", targets.get(kind))

    variants = [variant(peer, lambda: theirs, EXACT)]
    for label, prepare, kind in (("ours, channels_last", nhwc, ""), ("ours, for_inference", for_inference, FLOAT32)):
        variants.append(variant(label, lambda prepare=prepare: partial(_inferred, make(prepare(task))), EXACT, kind))
    if has_bfloat16():
        low = partial(in_bfloat16, task, torch.device("cpu"))
        variants.append(variant("ours, bfloat16", lambda: partial(_inferred, make(low())), ROUNDED, BF16))
    if find_spec("onnxruntime") is None:
        return Comparison(name, "images", len(images), tuple(variants))
    with TemporaryDirectory() as folder:
        network = make(deepcopy(task))
        names = list(_inferred(network, images))
        plain, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        WRITE["onnx"](traced(network, tuple(images.shape[-2:])), plain, names, {})
        small.write_bytes(plain.read_bytes())
        quantise(small, list(images), {})
        variants.append(variant("ONNX Runtime", lambda: RUN["onnx"](plain, names), EXACT, EXPORTED))
        if find_spec("openvino") is not None:
            variants.append(variant("OpenVINO", lambda: RUN["openvino"](plain, names), EXACT, EXPORTED))
            if has_bfloat16():
                low = partial(RUN["openvino"], plain, names, "bf16")
                variants.append(variant("OpenVINO, bfloat16", low, ROUNDED, EXPORTED_BF16))
        variants.append(variant("ONNX Runtime, int8", lambda: RUN["onnx"](small, names), COARSE, INT8))
    return Comparison(name, "images", len(images), tuple(variants))


def _segmenter(variant: str) -> SegmentationTask:
    """With statistics of a random batch; see `networks` on the initialisation."""
    torch.manual_seed(0)
    task = SegmentationTask(HRNet(variant, upsample="bilinear"), 19)
    norms = [module for module in task.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        task.train()(torch.rand(2, 3, 64, 128))
    for norm in norms:
        norm.momentum = 0.1
    return task.eval()


def _as_published(task: SegmentationTask, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
    scores = concatenated(task.head, streams)
    return functional.interpolate(scores, size=size, mode="bilinear")


def _inferred(network: Callable[[Tensor], Any], images: Tensor) -> Any:
    with torch.inference_mode():
        return network(images)


def _only(found: Any) -> Tensor:
    return next(iter(found.values())) if isinstance(found, dict) else found


def _agrees(run: Run, *, expected: Tensor, tolerance: float) -> str:
    """What is wrong with heatmaps, or with labels, of which rounding turns some."""
    found = run()
    if expected.is_floating_point():
        return check(found, expected, tolerance)
    share = (found != expected).double().mean().item()
    return "" if share <= tolerance else f"{share:.1%} of its labels differ from what is expected"
