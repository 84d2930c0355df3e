"""Published checkpoints, timm models and our own files loaded into an HRNet or a task, with a report of what fitted.

The trunk has the same parameter names in every published HRNet (TPAMI 2020 and its official repositories); wrappers and
heads differ, and are recognised from the keys. Use: `print(load_weights(task, "hrnet_ocr_cs.pth"))`.
"""

import logging
import pickle
import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hrnet.backbone import HRNet
from hrnet.variants import VARIANTS

logger = logging.getLogger("hrnet")

State = dict[str, Tensor]

FILE_SUFFIXES = {".pth", ".pt", ".tar", ".ckpt", ".safetensors", ".bin"}
TIMM_NAME = re.compile(r"hrnet_\w+(\.\w+)?")
WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "best_state_dict", "model")
# Training files keep scores as NumPy scalars, which are plain data; under NumPy 1 and 2 they have different names.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_SCALARS = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]
TRUNK = re.compile(r"(conv[12]|bn[12]|layer1|transition[123]|stage[234])\.")
# Unlike `conv1`, these occur nowhere but at the root of a trunk, so what stands before them is a wrapper's prefix.
ANCHOR = re.compile(r"(?:^|(?<=\.))((?:layer1|transition[123]|stage[234])\.\d+\.)")
COMPILED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Stands beside the network in training files; a head of the first ImageNet files (`head.0.i.j`, `fc`) fits no task.
NEVER_WANTED = re.compile(r"(loss|criterion|optimizer|n_averaged|fc)\b|head\.\d\.\d\.")
BIAS_WITHOUT_EFFECT = re.compile(r"head\.(0|final_layer\.0|downsamp_modules\.\d\.0)\.bias")


@dataclass(frozen=True)
class Layout:
    """How a family of checkpoints names its head.

    Args:
        family: Name in the log.
        marker: Keys, below wrappers, that this family has and those after it in its tuple lack.
        head: Beginnings of its keys -> beginnings of ours in a task.
    """

    family: str
    marker: str
    head: dict[str, str]


OFFICIAL = (
    Layout(
        "ocr", r"cls_head\..+", {n: f"head.{n}" for n in ("conv3x3_ocr", "aux_head", "ocr_distri_head", "cls_head")}
    ),
    Layout("segmentation", r"last_layer\..+", {"last_layer": "head"}),
    Layout("pose", r"final_layer\.(weight|bias)", {"final_layer": "head"}),
    Layout(
        "classification",
        r"incre_modules\..+",
        {n: f"head.{n}" for n in ("incre_modules", "downsamp_modules", "final_layer", "classifier")},
    ),
    Layout("face", r"head\.[013]\.\w+", {"head": "head"}),
)
OPENMMLAB = (
    Layout(
        "mmpose", r"(keypoint_)?head\.final_layer\.\w+", {f"{n}.final_layer": "head" for n in ("head", "keypoint_head")}
    ),
    Layout(
        "mmseg",
        r"decode_head\..+",
        {
            "decode_head.convs.0.conv": "head.0",
            "decode_head.convs.0.bn": "head.1",
            "decode_head.conv_seg": "head.3",
        },
    ),
    Layout("mmdet", r"(rpn|bbox|roi)_head\..+", {}),
)
HEADLESS = Layout("backbone", "", {})
OURS = Layout("ours", "", {})
BILINEAR = {"ocr", "segmentation", "face", "mmseg"}


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


def load_weights(module: nn.Module, source: str | Path, strict: bool = True) -> WeightReport:
    """Copy the weights of `source` into `module`, in place.

    Understood are the official pose, segmentation, OCR, classification and face files, timm, mmpose, mmsegmentation
    (FCN head), the backbones of mmdetection, and our own checkpoints; plain or wrapped (`state_dict`, `module.`, ...).
    A head is loaded if the task has that very head, else left out. A first convolution for other than 3 channels gets
    the published filters adapted as timm does (summed for one channel, repeated for more).

    The file does not say how the network interpolates: segmentation, OCR and face files need
    `HRNet(upsample="bilinear")`, the published OCR files and some others also `align_corners=True`.

    Segmentation files whose name contains `torch04`, and those of the repository's PyTorch 0.4.1 branch, were trained
    with InPlaceABN, which scales by |weight| + 1e-5; in plain batch norm they give wrong results without any error.
    Files named `torch04` are converted; add it to the name of the others. Files named `torch11` need nothing.

    Args:
        module: An `HRNet`, or a task that holds one as `backbone` and, if it has a head, that as `head`.
        source: Path of a .pth, .pt, .pth.tar, .ckpt or .safetensors file, or a timm name such as `hrnet_w32.ms_in1k`.
        strict: Refuse unless every tensor of module and source finds its counterpart. If false, what fits is loaded.

    Returns:
        What was loaded and what was not.

    Raises:
        ValueError: If the source does not exist, cannot be read or downloaded, holds no HRNet, matches less than half
            of the backbone, or (strict) does not match entirely. The module is then as before.
    """
    backbone = _backbone(module)
    own = _own_tensors(module, backbone)
    name = str(source)
    layout, found, unknown = _translate(_read(source), own, name)
    found = _plain_scales(_adapted(found, own), name, layout.family)
    spare = set(module.state_dict()) if module is not backbone else set()
    report = _compare(own, found, unknown, layout, spare, backbone)
    shown = _without_prefix(report) if module is backbone else report
    trunk = [n for n in own if n.startswith("backbone.") and not _counts(n)]
    fitting = sum(n.startswith("backbone.") for n in report.matched)
    if 2 * fitting < len(trunk):
        advice = _variant_advice(found, backbone)
        raise ValueError(f"{name} matches only {fitting} of {len(trunk)} backbone tensors. {advice}\n{shown}")
    if strict and not report.complete:
        advice = _advice(report, found, backbone)
        raise ValueError(f"{name} ({layout.family}) does not fit entirely. {advice}\n{shown}")
    _copy(own, found, report.zeroed)
    logger.log(logging.INFO if report.complete else logging.WARNING, "%s (%s): %s", name, layout.family, shown)
    if layout.family in BILINEAR and backbone.upsample == "nearest":
        logger.warning('%s was trained with upsample="bilinear"; with "nearest" its scores will be lower.', name)
    return shown


def _backbone(module: nn.Module) -> HRNet:
    backbone = module if isinstance(module, HRNet) else dict(module.named_children()).get("backbone")
    if not isinstance(backbone, HRNet):
        raise ValueError(
            f"load_weights fills an HRNet or a task with an HRNet as `backbone`, got {type(module).__name__}; "
            "pass the network itself, not a wrapper of it."
        )
    return backbone


def _own_tensors(module: nn.Module, backbone: HRNet) -> State:
    """Parameters and saved buffers of the module, each once; those of the trunk as `backbone.*`."""
    trunk = {f"backbone.{n}": x for n, x in _saved(backbone)}
    if module is backbone:
        return trunk
    shared = {id(x) for x in trunk.values()}
    return trunk | {n: x for n, x in _saved(module) if id(x) not in shared}


def _saved(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    names = set(module.state_dict())
    yield from ((n, x) for n, x in chain(module.named_parameters(), module.named_buffers()) if n in names)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


# Sources: file or name -> flat dict of tensors.


def _read(source: str | Path) -> State:
    path = Path(source).expanduser()
    if path.is_file():
        return _flat(_read_file(path), path)
    if TIMM_NAME.fullmatch(str(source)) and path.suffix not in FILE_SUFFIXES:
        return _download(str(source))
    what = "a folder" if path.is_dir() else "not there"
    raise ValueError(
        f"The checkpoint {path} is {what} (current folder: {Path.cwd()}); "
        "give a .pth, .pt, .pth.tar, .ckpt or .safetensors file, or a timm name such as hrnet_w32.ms_in1k."
    )


def _read_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}); download or save it again."
            ) from error
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise ValueError(f"{path} is damaged or not a PyTorch checkpoint; download or save it again.") from error
        raise ValueError(
            f"{path} holds Python objects ({culprit[1]}) beside tensors, as a whole pickled module does, and opening "
            "such a file runs code from it, so it was not opened. If you trust it, convert it once where its code can "
            "be imported: content = torch.load(path, weights_only=False), then torch.save(network.state_dict(), "
            "new_path) for the network in it."
        ) from error


def _flat(content: Any, path: Path) -> State:
    """The dict of tensors inside however many wrapping dicts."""
    while isinstance(content, dict):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            return {COMPILED.sub("", str(k)): x for k, x in content.items() if isinstance(x, Tensor)}
        content = inner
    raise ValueError(
        f"{path} holds a {type(content).__name__}, expected a state dict (names -> tensors), maybe wrapped."
    )


def _download(name: str) -> State:
    """State dict of a timm model, downloaded or from the cache of Hugging Face."""
    if name not in timm.list_models("hrnet*") + timm.list_pretrained("hrnet*"):
        known = ", ".join(timm.list_pretrained("hrnet*"))
        raise ValueError(f"There is neither a file nor a timm model {name!r}; timm has {known}.")
    # Without network the hub's client would retry for most of a minute before it says so.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_reachable()
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"timm could not download {name!r} from {constants.ENDPOINT} and has no copy in its cache; connect to the "
            "network, or fetch the checkpoint elsewhere and give the path of the file instead of the name."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_reachable() -> bool:
    if getproxies().keys() & {"https", "all"}:
        return True  # a proxy resolves names and connects for us, so trying ourselves would prove nothing
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


# Names: theirs -> ours.


def _translate(state: State, own: State, name: str) -> tuple[Layout, State, list[str]]:
    """Recognised layout, tensors by our names, and the names that the layout does not explain."""
    prefix = _trunk_prefix(state, name)
    trunk = {k: x for k, x in state.items() if k.startswith(prefix) and TRUNK.match(k, len(prefix))}
    found = {f"backbone.{k.removeprefix(prefix)}": x for k, x in trunk.items()}
    # `backbone.` before the trunk alone is a task or OpenMMLab; before everything it is one more wrapper.
    split = prefix.endswith("backbone.") and not any(k.startswith(prefix) for k in state.keys() - trunk.keys())
    root = prefix.removesuffix("backbone.") if split else prefix
    rest = {k.removeprefix(root): x for k, x in state.items() if k.startswith(root) and k not in trunk}
    parameters = {n for n, x in own.items() if isinstance(x, nn.Parameter) and not n.startswith("backbone.")}
    layout = _layout(rest, split, parameters)
    if layout is OURS:
        others = _of_this_task(rest, parameters, own)
        # Of another task only buffers can be shared, such as the normalisation of images.
        return layout, found | {n: x for n, x in others.items() if n in own or others.keys() & parameters}, []
    renamed = {k: layout.head[start] + k.removeprefix(start) for k in rest if (start := _start(k, layout))}
    unknown = [] if split else [k for k in rest if k not in renamed and not NEVER_WANTED.match(k)]
    if parameters.isdisjoint(renamed.values()):
        return layout, found, unknown
    return layout, found | {new: rest[k] for k, new in renamed.items()}, unknown


def _trunk_prefix(state: State, name: str) -> str:
    """What stands before the names of the trunk, such as `module.model.`."""
    votes = Counter(k[: match.start(1)] for k in state if (match := ANCHOR.search(k)))
    if not votes:
        raise ValueError(
            f"{name} holds no HRNet: no tensor is named like transition1.0.0.weight or stage2.0.branches...; "
            f"it has {', '.join(list(state)[:3]) or 'no tensors at all'}."
        )
    rivals = [prefix for prefix, count in votes.items() if count == max(votes.values())]
    first = min(rivals, key=len)
    sample = next(k.removeprefix(first) for k in state if k.startswith(first) and ANCHOR.match(k, len(first)))
    for other in rivals:
        # One network under two names, as in a task whose detector holds the backbone too, is no ambiguity.
        if not torch.equal(state[first + sample], state[other + sample]):
            raise ValueError(
                f"{name} holds two networks, {first!r} and {other!r} (teacher and student?); "
                "save the one you want into a file of its own."
            )
    return first


def _layout(rest: State, split: bool, parameters: set[str]) -> Layout:
    if split and rest.keys() & parameters:
        return OURS
    for layout in OPENMMLAB if split else OFFICIAL:
        if any(re.fullmatch(layout.marker, k) for k in rest):
            return layout
    return OURS if split and rest else HEADLESS


def _start(key: str, layout: Layout) -> str | None:
    return next((start for start in layout.head if key.startswith(f"{start}.")), None)


def _of_this_task(rest: State, parameters: set[str], own: State) -> State:
    """The tensors of our checkpoint as this task names them: its own, or those of `tasks.<name>` of a joint run."""
    if rest.keys() & parameters or not parameters:
        return rest
    fitting = {}
    for name in dict.fromkeys(k.split(".")[1] for k in rest if k.startswith("tasks.")):
        part = {k.removeprefix(f"tasks.{name}."): x for k, x in rest.items() if k.startswith(f"tasks.{name}.")}
        if parameters <= part.keys():
            fitting[name] = {k: x for k, x in part.items() if not k.startswith("backbone.")}
    same = {n: part for n, part in fitting.items() if all(part[k].shape == own[k].shape for k in parameters)}
    if len(same) > 1:
        raise ValueError(
            f"This joint checkpoint has several heads that fit: {', '.join(same)}. Split off the one that is meant: "
            "python -m experiments.split RUN TASK OUT.ckpt."
        )
    return next(iter((same or fitting).values()), rest)


# Values.


def _adapted(found: State, own: State) -> State:
    """With the filters of the first convolution for the channels of this network."""
    key = "backbone.conv1.weight"
    channels = own[key].shape[1]
    if key in found and found[key].ndim == 4 and found[key].shape[1] == 3 != channels:
        return found | {key: adapt_input_conv(channels, found[key])}
    return found


def _plain_scales(found: State, name: str, family: str) -> State:
    """With batch norm's scales as plain batch norm needs them, where InPlaceABN trained them (see `load_weights`)."""
    if family not in ("segmentation", "ocr"):
        return found
    scales = {n: x for n, x in found.items() if n.endswith(".weight") and f"{n[:-6]}running_var" in found}
    file = Path(name).name.lower()
    if "torch04" in file:
        logger.info("%s was trained with InPlaceABN: batch norm's scales become |scale| + 1e-5.", name)
        return found | {n: x.abs() + 1e-5 for n, x in scales.items()}
    share = sum((x < 0).sum().item() for x in scales.values()) / max(1, sum(x.numel() for x in scales.values()))
    if share > 0.01 and "torch11" not in file:
        logger.warning(
            "%.0f %% of the batch-norm scales in %s are negative: if it was trained with InPlaceABN (PyTorch 0.4.1 "
            "branch), its scores are wrong until you add torch04 to its file name, which converts them.",
            100 * share,
            name,
        )
    return found


def _compare(
    own: State, found: State, unknown: list[str], layout: Layout, spare: set[str], backbone: HRNet
) -> WeightReport:
    """Every name of either side in its list; `spare` are second names of tensors in `own`."""
    unused = [f"backbone.stage4.{len(backbone.stage4) - 1}.fuse_layers."] if len(backbone.channels) == 1 else []
    unused += ["head.classifier."] if "head.classifier.weight" not in own else []
    report = WeightReport(unexpected=list(unknown))
    for n in found.keys() - own.keys() - spare:
        if not (_counts(n) or n.startswith(tuple(unused)) or NEVER_WANTED.match(n)):
            report.unexpected.append(n)
    report.unexpected.sort()
    for n, target in own.items():
        if _counts(n):
            continue
        if n in found and found[n].shape == target.shape:
            report.matched.append(n)
        elif n in found:
            report.mismatched[n] = (tuple(found[n].shape), tuple(target.shape))
        elif BIAS_WITHOUT_EFFECT.fullmatch(n) and f"{n[:-4]}weight" in found:
            report.zeroed.append(n)
        elif layout is OURS or isinstance(target, nn.Parameter) or n.startswith(("backbone.", "head.")):
            report.missing.append(n)
    return report


def _without_prefix(report: WeightReport) -> WeightReport:
    """The report on a bare HRNet, whose names have no `backbone.`."""
    lists = (report.matched, report.missing, report.unexpected)
    matched, missing, unexpected = ([n.removeprefix("backbone.") for n in names] for names in lists)
    return WeightReport(
        matched, missing, unexpected, {n.removeprefix("backbone."): x for n, x in report.mismatched.items()}
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


def _advice(report: WeightReport, found: State, backbone: HRNet) -> str:
    """What is probably wrong with a source that fits in part, and what to do about it."""
    exchange = f"backbone.stage4.{len(backbone.stage4) - 1}.fuse_layers."
    trunk = [n for n in [*report.missing, *report.unexpected, *report.mismatched] if n.startswith("backbone.")]
    if trunk and set(trunk) <= set(report.missing) and all(n.startswith(exchange) for n in trunk):
        return (
            "The file was trained with multi_scale_output=False: build HRNet so, "
            "or pass strict=False to leave these exchanges as they are."
        )
    if trunk:
        return f"{_variant_advice(found, backbone)} Pass strict=False to load what fits."
    if report.mismatched:
        return "Its head counts other classes or key points: pass strict=False to leave the task's head as it is."
    return (
        "It lacks or adds parts beside the backbone: load it into the backbone alone, as "
        "HRNet(weights=...) does, or pass strict=False to leave what is missing as it is."
    )


def _copy(own: State, found: State, zeroed: list[str]) -> None:
    with torch.no_grad():
        for n, target in own.items():
            if n in found and found[n].shape == target.shape:
                target.copy_(found[n])
        for n in zeroed:
            own[n].zero_()
