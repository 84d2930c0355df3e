"""Published checkpoints, timm models and our own files loaded into an HRNet or a task, with a report of what fitted.

A source is read (`checkpoints`), its names become ours (`layouts`), some values are adapted, and what fits is copied
and reported. Use: `print(load_weights(task, "hrnet_ocr_cs.pth"))`.
"""

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hrnet.checkpoints import State, read_checkpoint, refuse_unusable, with_plain_scales
from hrnet.layouts import OURS, translate
from hrnet.variants import VARIANTS

logger = logging.getLogger("hrnet")
FIRST_STREAM = "backbone.transition1.0.0.weight"
BIAS_WITHOUT_EFFECT = re.compile(r"head\.(0|(final_layer|conv3x3_ocr|aux_head|downsamp_modules\.\d)\.0)\.bias")


@dataclass
class WeightReport:
    """What became of each tensor (counters of batch norm are loaded but not listed).

    Args:
        matched: Names in the module that were loaded.
        missing: Names in the module that the source lacks; they keep their values.
        unexpected: Names in the source that the module lacks. Heads of other tasks and, for a backbone with
            `multi_scale_output=False`, the exchanges it does without, are expected and not listed.
        mismatched: Name in the module -> (shape in the source, shape in the module); they keep their values.
        zeroed: Biases set to 0 because the published network has none there.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    zeroed: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether module and source agree on every tensor."""
        return not (self.missing or self.unexpected or self.mismatched)

    def without_prefix(self, prefix: str) -> Self:
        """The same with names that do not begin with `prefix`."""
        lists = (self.matched, self.missing, self.unexpected, self.zeroed)
        matched, missing, unexpected, zeroed = ([n.removeprefix(prefix) for n in names] for names in lists)
        mismatched = {n.removeprefix(prefix): shapes for n, shapes in self.mismatched.items()}
        return type(self)(matched, missing, unexpected, mismatched, zeroed)

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched)} tensors matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape"
        ]
        shapes = [
            f"{n} {list(theirs)} in the source, {list(ours)} here" for n, (theirs, ours) in self.mismatched.items()
        ]
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
            ("biases the source does without, set to 0", self.zeroed),
        ):
            lines += [f"  {title}: {group}" for group in _grouped(names)]
        return "\n".join(lines)


def _grouped(names: list[str]) -> list[str]:
    """A line for each top part of the network: how many names, and the first three."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        top = ".".join(parts[: 2 if parts[0] == "backbone" else 1])
        groups.setdefault(top, []).append(name)
    return [
        f"{len(group)} in {top} ({', '.join(group[:3])}{', ...' if len(group) > 3 else ''})"
        for top, group in groups.items()
    ]


class Unfit(ValueError):
    """Weights that do not fit a module.

    Args:
        problem: What the user reads.
        report: Every tensor's fate.
        foreign: Whether so little fits that it is another network.
    """

    def __init__(self, problem: str, report: WeightReport, foreign: bool) -> None:
        super().__init__(f"{problem}\n{report}")
        self.problem, self.report, self.foreign = problem, report, foreign


@runtime_checkable
class Network(Protocol):
    """What loading asks of a backbone beside its tensors. `HRNet` is one; its file imports this one, so not by name."""

    channels: list[int]
    strides: list[int]
    upsample: str


@runtime_checkable
class Detector(Protocol):
    """What loading asks of a task whose head may count by one of several conventions; None where it has none."""

    convention: str | None


def load_weights(module: nn.Module, source: str | Path, strict: bool = True) -> WeightReport:
    """Copy the weights of `source` into `module`, in place.

    Understood are the official pose, segmentation, OCR, classification and face files, timm, mmpose, mmsegmentation
    (FCN and OCR heads), mmpretrain, Faster and Mask R-CNN of the official repository and mmdetection 1 to 3 (of other
    detectors the backbone), and our own checkpoints; plain or wrapped (`state_dict`, `module.`, ...).
    A head is loaded if the task has that very head, else left out. A first convolution for other than 3 channels gets
    the published filters adapted as timm does (summed for one channel, repeated for more).

    The file does not say how the network interpolates: segmentation, OCR and face files need
    `HRNet(upsample="bilinear")`, the published OCR files and some others also `align_corners=True`.

    Segmentation files whose name contains `torch04`, and those of the repository's PyTorch 0.4.1 branch, were trained
    with InPlaceABN, which scales by |weight| + 1e-5; in plain batch norm they give wrong results without any error.
    Files named `torch04` are converted; add it to the name of the others. Files named `torch11` need nothing.

    Args:
        module: An `HRNet`, or a task that holds one as `backbone` and, if it has a head, that as `head`.
        source: Path of a .pth, .pt, .pth.tar, .ckpt, .bin or .safetensors file, a run folder (its best checkpoint, else
            its last), or a timm name such as `hrnet_w32.ms_in1k`.
        strict: Refuse unless every tensor of module and source finds its counterpart. If false, what fits is loaded.

    Returns:
        What was loaded and what was not.

    Raises:
        ValueError: If the source does not exist, cannot be read or downloaded, holds no HRNet or values that are none
            (NaN), matches less than half of the backbone, or (strict) does not match entirely. The module is then as
            before.
    """
    try:
        return start_from(module, source, strict)
    except Unfit as error:
        if error.foreign or "strict=False" in error.problem:
            raise
        raise Unfit(f"{error.problem} Or pass strict=False to load what fits.", error.report, False) from error


def start_from(module: nn.Module, source: str | Path, strict: bool) -> WeightReport:
    """As `load_weights`, for those who ask by a `weights:` in YAML and cannot pass `strict`."""
    _backbone(module)
    report, family = fill(module, read_checkpoint(source), str(source), strict)
    logger.log(logging.INFO if report.complete else logging.WARNING, "%s (%s): %s", source, family, report)
    return report


def fill(module: nn.Module, state: State, name: str, strict: bool) -> tuple[WeightReport, str]:
    """Copy tensors by the names of any layout into `module`, see `load_weights`; also the layout's name.

    Raises:
        Unfit: If they do not fit. The module is then as before.
        ValueError: If they hold no HRNet, or values that are none.
    """
    backbone = _backbone(module)
    own = _own_tensors(module, backbone)
    layout, found, unknown = translate(state, own, name)
    refuse_unusable({n: x for n, x in found.items() if n in own}, own, name)
    found = with_plain_scales(_adapted(found, own), name, layout.family)
    report = _compare(own, found, unknown, all_buffers=layout is OURS, spare=module.state_dict().keys())
    shown = report.without_prefix("backbone.") if module is backbone else report
    if problem := _refusal(report, found, own, strict):
        raise Unfit(f"{name} ({layout.family}) {problem}", shown, _too_little(report))
    _copy(own, found, report.zeroed)
    if layout.bilinear and backbone.upsample == "nearest":
        logger.warning('%s was trained with upsample="bilinear"; with "nearest" its scores will be lower.', name)
    if isinstance(module, Detector) and any(n.startswith("head.") for n in report.matched):
        _compare_conventions(module.convention, layout.convention, name)
    return shown, layout.family


def _compare_conventions(ours: str | None, theirs: str | None, name: str) -> None:
    if None not in (ours, theirs) and ours != theirs:
        logger.warning(
            "%s was trained with the convention %s, and this DetectionTask counts by %s: anchors and pixels lie half a "
            "stride elsewhere, and so do the boxes until they are trained anew. Set its convention to %s "
            "(--model.convention %s).",
            *(name, theirs, ours, theirs, theirs),
        )


def _backbone(module: nn.Module) -> nn.Module:
    backbone = module if isinstance(module, Network) else dict(module.named_children()).get("backbone")
    if not (isinstance(backbone, Network) and FIRST_STREAM.removeprefix("backbone.") in backbone.state_dict()):
        raise ValueError(
            f"load_weights fills an HRNet or a task with an HRNet as `backbone`, got {type(module).__name__}; "
            "pass the network itself, not a wrapper of it nor what for_inference made of it."
        )
    return backbone


def _own_tensors(module: nn.Module, backbone: nn.Module) -> State:
    """Parameters and saved buffers of the module, each once; those of the trunk as `backbone.*`."""
    trunk = {f"backbone.{n}": x for n, x in _saved(backbone)}
    if module is backbone:
        return trunk
    shared = {id(x) for x in trunk.values()}
    return trunk | {n: x for n, x in _saved(module) if id(x) not in shared}


def _saved(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    names = set(module.state_dict())
    yield from ((n, x) for n, x in chain(module.named_parameters(), module.named_buffers()) if n in names)


def _compare(
    own: State, found: State, unknown: list[str], *, all_buffers: bool, spare: Collection[str]
) -> WeightReport:
    """Every name of either side in its list.

    Args:
        own: Tensors of the module, those of its trunk as `backbone.*`.
        found: Tensors of the source by the same names.
        unknown: Names in the source that have no counterpart for certain.
        all_buffers: Whether the source is expected to have the buffers of the task too, not only of trunk and head.
        spare: Second names of tensors in `own`, no surprise in the source.
    """
    last = _last_exchange(own)
    unused = [] if any(n.startswith(f"{last}1.") for n in own) else [last]
    unused += [] if "head.classifier.weight" in own else ["head.classifier."]
    surprises = [n for n in found.keys() - own.keys() - set(spare) if not (_counts(n) or n.startswith(tuple(unused)))]
    report = WeightReport(unexpected=sorted([*unknown, *surprises]))
    for n, target in own.items():
        if _counts(n):
            continue
        if n in found and found[n].shape == target.shape:
            report.matched.append(n)
        elif n in found:
            report.mismatched[n] = (tuple(found[n].shape), tuple(target.shape))
        elif BIAS_WITHOUT_EFFECT.fullmatch(n) and f"{n[:-4]}weight" in found:
            report.zeroed.append(n)
        elif all_buffers or isinstance(target, nn.Parameter) or n.startswith(("backbone.", "head.")):
            report.missing.append(n)
    return report


def _refusal(report: WeightReport, found: State, own: State, strict: bool) -> str | None:
    """What is wrong with a source and what to do about it, to follow its name; None if it may be loaded.

    `report`, `found` and `own` are those of `_compare`.
    """
    if _too_little(report):
        fitting, total = _fitting(report)
        return f"matches only {fitting} of {total} backbone tensors. {_variant_advice(found, own)}"
    if strict and not report.complete:
        return f"does not fit entirely. {_advice(report, found, own)}"
    return None


def _too_little(report: WeightReport) -> bool:
    """Whether less than half of the backbone finds its counterpart: it is another network then."""
    fitting, total = _fitting(report)
    return 2 * fitting < total


def _fitting(report: WeightReport) -> tuple[int, int]:
    """Tensors of the backbone that are loaded, and all of them."""
    fitting = len(_of_trunk(report.matched))
    return fitting, fitting + len(_of_trunk([*report.missing, *report.mismatched]))


def _advice(report: WeightReport, found: State, own: State) -> str:
    """What is probably wrong with a source that fits in part, and what to do about it in YAML or Python."""
    missing = _of_trunk(report.missing)
    trunk = missing + _of_trunk([*report.unexpected, *report.mismatched])
    if trunk and trunk == missing and all(n.startswith(_last_exchange(own)) for n in trunk):
        return (
            "It was trained with multi_scale_output=False: set that for the backbone, or give the file as `weights` of "
            "the task instead of its backbone's, which leaves the exchanges that it lacks as they are."
        )
    if trunk:
        return _variant_advice(found, own)
    # Only load_weights in Python asks a task for every tensor.
    if report.mismatched:
        return "Its head counts other classes or key points: pass strict=False to leave the task's head as it is."
    return (
        "It lacks or adds parts beside the backbone: load it into the backbone alone, as "
        "HRNet(weights=...) does, or pass strict=False to leave what is missing as it is."
    )


def _variant_advice(found: State, own: State) -> str:
    """Which variant the source may be, by the width of its first stream."""
    if FIRST_STREAM not in found or not found[FIRST_STREAM].ndim:
        return "Is the file complete?"
    theirs, ours = len(found[FIRST_STREAM]), len(own[FIRST_STREAM])
    variants = " or ".join(f"HRNet({n!r})" for n, v in VARIANTS.items() if v.width == theirs) or "no known variant"
    return f"Is this the right variant? The file's first stream has width {theirs} ({variants}), the model's {ours}."


def _of_trunk(names: list[str]) -> list[str]:
    return [n for n in names if n.startswith("backbone.")]


def _last_exchange(own: State) -> str:
    """Beginning of the names that a trunk with `multi_scale_output=False` has for its finest stream only."""
    return f"backbone.stage4.{max(int(n.split('.')[2]) for n in own if n.startswith('backbone.stage4.'))}.fuse_layers."


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _adapted(found: State, own: State) -> State:
    """With the filters of the first convolution for the channels of this network."""
    key = "backbone.conv1.weight"
    channels = own[key].shape[1]
    if key in found and found[key].ndim == 4 and found[key].shape[1] == 3 != channels:
        return found | {key: adapt_input_conv(channels, found[key])}
    return found


def _copy(own: State, found: State, zeroed: list[str]) -> None:
    with torch.no_grad():
        for n, target in own.items():
            if n in found and found[n].shape == target.shape:
                target.copy_(found[n])
        for n in zeroed:
            own[n].zero_()
