"""Published checkpoints, timm models and our own files loaded into an HRNet or a task, with a report of what fitted.

The source is read (`checkpoint_files`), its names become ours (`checkpoint_layouts`), some values are adapted (here),
and what fits is copied and reported (`weight_report`). Use: `print(load_weights(task, "hrnet_ocr_cs.pth"))`.
"""

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hrnet.backbone import HRNet
from hrnet.checkpoint_files import State, read_checkpoint
from hrnet.checkpoint_layouts import OURS, translate
from hrnet.weight_report import WeightReport, compare, refusal, too_little

__all__ = ["WeightReport", "load_weights"]

logger = logging.getLogger("hrnet")


def load_weights(module: nn.Module, source: str | Path, strict: bool = True) -> WeightReport:
    """Copy the weights of `source` into `module`, in place.

    Understood are the official pose, segmentation, OCR, classification and face files, timm, mmpose, mmsegmentation
    (FCN and OCR heads), mmpretrain, the backbones of mmdetection, and our own checkpoints; plain or wrapped
    (`state_dict`, `module.`, ...).
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


def fill(module: nn.Module, state: State, name: str, strict: bool) -> tuple[WeightReport, str]:
    """Copy tensors by the names of any layout into `module`, see `load_weights`; also the layout's name.

    Raises:
        Unfit: If they do not fit. The module is then as before.
        ValueError: If they hold no HRNet, or values that are none.
    """
    backbone = _backbone(module)
    own = _own_tensors(module, backbone)
    layout, found, unknown = translate(state, own, name)
    refuse_unusable({n: x for n, x in found.items() if n in own}, name)
    found = _plain_scales(_adapted(found, own), name, layout.family)
    report = compare(own, found, unknown, backbone, all_buffers=layout is OURS, spare=module.state_dict().keys())
    shown = report.without_prefix("backbone.") if module is backbone else report
    if problem := refusal(report, found, backbone, strict):
        raise Unfit(f"{name} ({layout.family}) {problem}", shown, too_little(report))
    _copy(own, found, report.zeroed)
    if layout.bilinear and backbone.upsample == "nearest":
        logger.warning('%s was trained with upsample="bilinear"; with "nearest" its scores will be lower.', name)
    return shown, layout.family


def refuse_unusable(found: State, name: str) -> None:
    """Raise ValueError for tensors that no network computes with: without values, packed, complex, NaN or infinite.

    Args:
        found: Parameters and statistics; other buffers may hold infinity for a reason.
        name: What the message calls the checkpoint.
    """
    for n, x in found.items():
        kind = _kind(x)
        if kind is not None:
            raise ValueError(
                f"{name} holds {n} as a {kind}: give the checkpoint with plain floating-point weights that it was "
                "made from."
            )
    broken = [n for n, x in found.items() if x.is_floating_point() and not torch.isfinite(x.float()).all()]
    if broken:
        shown = ", ".join(broken[:3]) + ", ..." * (len(broken) > 3)
        raise ValueError(
            f"{name} holds NaN or infinity in {len(broken)} of {len(found)} tensors ({shown}): its training had "
            "diverged, or the file is damaged; give an earlier checkpoint, or download it again."
        )


def _kind(x: Tensor) -> str | None:
    """What a tensor is if no weights can be copied out of it."""
    if x.is_meta:
        return "tensor without values (on the meta device)"
    if x.is_quantized or x.dtype in (torch.int8, torch.uint8):
        return f"quantised tensor ({str(x.dtype).removeprefix('torch.')})"
    if x.layout is not torch.strided:
        return f"sparse tensor ({str(x.layout).removeprefix('torch.')})"
    return f"complex tensor ({str(x.dtype).removeprefix('torch.')})" if x.is_complex() else None


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


def _copy(own: State, found: State, zeroed: list[str]) -> None:
    with torch.no_grad():
        for n, target in own.items():
            if n in found and found[n].shape == target.shape:
                target.copy_(found[n])
        for n in zeroed:
            own[n].zero_()
