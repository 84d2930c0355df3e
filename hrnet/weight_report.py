"""What became of each tensor when weights were loaded, and what to do if they do not fit.

Use: `report = compare(...)`, as `load_weights` does; `print(report)` groups the names by parts of the network.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from hrnet.backbone import HRNet
from hrnet.checkpoint_files import State
from hrnet.variants import VARIANTS

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

    def without_prefix(self, prefix: str) -> "WeightReport":
        """The same with names that do not begin with `prefix`."""
        lists = (self.matched, self.missing, self.unexpected, self.zeroed)
        matched, missing, unexpected, zeroed = ([n.removeprefix(prefix) for n in names] for names in lists)
        mismatched = {n.removeprefix(prefix): shapes for n, shapes in self.mismatched.items()}
        return WeightReport(matched, missing, unexpected, mismatched, zeroed)

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


def compare(
    own: State, found: State, unknown: list[str], backbone: HRNet, *, all_buffers: bool, spare: Collection[str]
) -> WeightReport:
    """Every name of either side in its list.

    Args:
        own: Tensors of the module, those of its trunk as `backbone.*`.
        found: Tensors of the source by the same names.
        unknown: Names in the source that have no counterpart for certain.
        backbone: The module's.
        all_buffers: Whether the source is expected to have the buffers of the task too, not only of trunk and head.
        spare: Second names of tensors in `own`, no surprise in the source.
    """
    unused = [_last_exchange(backbone)] if len(backbone.channels) == 1 else []
    unused += ["head.classifier."] if "head.classifier.weight" not in own else []
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


def refusal(report: WeightReport, found: State, backbone: HRNet, strict: bool) -> str | None:
    """What is wrong with a source and what to do about it, to follow its name; None if it may be loaded.

    `report` and `found` are those of `compare`.
    """
    if too_little(report):
        fitting, total = _fitting(report)
        return f"matches only {fitting} of {total} backbone tensors. {_variant_advice(found, backbone)}"
    if strict and not report.complete:
        return f"does not fit entirely. {_advice(report, found, backbone)}"
    return None


def too_little(report: WeightReport) -> bool:
    """Whether less than half of the backbone finds its counterpart: it is another network then."""
    fitting, total = _fitting(report)
    return 2 * fitting < total


def _fitting(report: WeightReport) -> tuple[int, int]:
    """Tensors of the backbone that are loaded, and all of them."""
    fitting = len(_of_trunk(report.matched))
    return fitting, fitting + len(_of_trunk([*report.missing, *report.mismatched]))


def _advice(report: WeightReport, found: State, backbone: HRNet) -> str:
    """What is probably wrong with a source that fits in part, and what to do about it in YAML or Python."""
    missing = _of_trunk(report.missing)
    trunk = missing + _of_trunk([*report.unexpected, *report.mismatched])
    if trunk and trunk == missing and all(n.startswith(_last_exchange(backbone)) for n in trunk):
        return (
            "It was trained with multi_scale_output=False: set that for the backbone, or give the file as `weights` of "
            "the task instead of its backbone's, which leaves the exchanges that it lacks as they are."
        )
    if trunk:
        return _variant_advice(found, backbone)
    # Only load_weights in Python asks a task for every tensor.
    if report.mismatched:
        return "Its head counts other classes or key points: pass strict=False to leave the task's head as it is."
    return (
        "It lacks or adds parts beside the backbone: load it into the backbone alone, as "
        "HRNet(weights=...) does, or pass strict=False to leave what is missing as it is."
    )


def _variant_advice(found: State, backbone: HRNet) -> str:
    """Which variant the source may be, by the width of its first stream."""
    first = found.get("backbone.transition1.0.0.weight")
    if first is None:
        return "Is the file complete?"
    variants = " or ".join(f"HRNet({n!r})" for n, v in VARIANTS.items() if v.width == len(first)) or "no known variant"
    return (
        f"Is this the right variant? The file's first stream has width {len(first)} ({variants}), "
        f"the model's {backbone.channels[0]}."
    )


def _of_trunk(names: list[str]) -> list[str]:
    return [n for n in names if n.startswith("backbone.")]


def _last_exchange(backbone: HRNet) -> str:
    """Beginning of the names that a trunk with `multi_scale_output=False` has for its finest stream only."""
    return f"backbone.stage4.{len(backbone.stage4) - 1}.fuse_layers."


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")
