"""Their names -> ours: which family a checkpoint is of, recognised from its keys, and what it calls its head.

The trunk has the same parameter names in every published HRNet (TPAMI 2020 and its official repositories); wrappers
and heads differ. Use: `layout, found, unknown = translate(state, own, name)`, as `load_weights` does.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from hrnet.checkpoints import State

TRUNK = re.compile(r"(conv[12]|bn[12]|layer1|transition[123]|stage[234])\.")
# Unlike `conv1`, these occur nowhere but at the root of a trunk, so what stands before them is a wrapper's prefix.
ANCHOR = re.compile(r"(?:^|(?<=\.))((?:layer1|transition[123]|stage[234])\.\d+\.)")
# Stands beside the network in training files; a head of the first ImageNet files (`head.0.i.j`, `fc`) fits no task.
NEVER_WANTED = re.compile(r"(loss|criterion|optimizer|n_averaged|fc)\b|head\.\d\.\d\.")


@dataclass(frozen=True)
class Layout:
    """How a family of checkpoints names its head.

    Args:
        family: Name in the log.
        marker: Keys, below wrappers, that this family has and those after it in its tuple lack.
        head: Beginnings of its keys -> beginnings of ours in a task.
        bilinear: Trained with `HRNet(upsample="bilinear")`.
        background_last: The class of the background comes after the others, and has neither box nor mask.
        convention: Where a detector's anchors and pixels lie, as `DetectionTask` calls it; None of other networks.
    """

    family: str
    marker: str
    head: dict[str, str]
    bilinear: bool = False
    background_last: bool = False
    convention: str | None = None


OFFICIAL = (
    Layout(
        "ocr",
        r"cls_head\..+",
        {n: f"head.{n}" for n in ("conv3x3_ocr", "aux_head", "ocr_distri_head", "cls_head")},
        bilinear=True,
    ),
    Layout("segmentation", r"last_layer\..+", {"last_layer": "head"}, bilinear=True),
    Layout("pose", r"final_layer\.(weight|bias)", {"final_layer": "head"}),
    Layout(
        "classification",
        r"incre_modules\..+",
        {n: f"head.{n}" for n in ("incre_modules", "downsamp_modules", "final_layer", "classifier")},
    ),
    Layout("face", r"head\.[013]\.\w+", {"head": "head"}, bilinear=True),
)
_OCR_BLOCK, _OCR = "decode_head.1.object_context_block", "head.ocr_distri_head"
_CASCADE = {  # a coarse FCN head, then the OCR head
    "decode_head.0.convs.0.conv": "head.aux_head.0",
    "decode_head.0.convs.0.bn": "head.aux_head.1",
    "decode_head.0.conv_seg": "head.aux_head.3",
    "decode_head.1.bottleneck.conv": "head.conv3x3_ocr.0",
    "decode_head.1.bottleneck.bn": "head.conv3x3_ocr.1",
    **{
        f"{_OCR_BLOCK}.{theirs}.{layer}": f"{_OCR}.object_context_block.{ours}.{place}"
        for theirs, ours in (("query_project", "f_pixel"), ("key_project", "f_object"))
        for layer, place in (("0.conv", "0"), ("0.bn", "1.0"), ("1.conv", "2"), ("1.bn", "3.0"))
    },
    **{
        f"{_OCR_BLOCK}.{theirs}.{layer}": f"{_OCR}.{ours}.{place}"
        for theirs, ours in (
            ("value_project", "object_context_block.f_down"),
            ("out_project", "object_context_block.f_up"),
            ("bottleneck", "conv_bn_dropout"),
        )
        for layer, place in (("conv", "0"), ("bn", "1.0"))
    },
    "decode_head.1.conv_seg": "head.cls_head",
}
OPENMMLAB = (
    Layout(
        "mmpose face",
        r"(keypoint_)?head\.final_layer\.[013]\..+",
        {f"{n}.final_layer": "head" for n in ("head", "keypoint_head")},
        bilinear=True,
    ),
    Layout(
        "mmpose face",
        r"head\.conv_layers\.[01]\..+",
        {"head.conv_layers.0": "head.0", "head.conv_layers.1": "head.1", "head.final_layer": "head.3"},
        bilinear=True,
    ),
    Layout(
        "mmpose",
        r"(keypoint_)?head\.final_layer\.(weight|bias)",
        {f"{n}.final_layer": "head" for n in ("head", "keypoint_head")},
    ),
    Layout("mmseg ocr", r"decode_head\.1\.object_context_block\..+", _CASCADE, bilinear=True),
    Layout(
        "mmseg",
        r"decode_head\.(convs|conv_seg)\..+",
        {
            "decode_head.convs.0.conv": "head.0",
            "decode_head.convs.0.bn": "head.1",
            "decode_head.conv_seg": "head.3",
        },
        bilinear=True,
    ),
    Layout(
        "mmpretrain",
        r"neck\.increase_layers\..+",
        {
            "neck.increase_layers": "head.incre_modules",
            **{f"neck.downsample_layers.{i}.conv": f"head.downsamp_modules.{i}.0" for i in range(3)},
            **{f"neck.downsample_layers.{i}.bn": f"head.downsamp_modules.{i}.1" for i in range(3)},
            "neck.final_layer.conv": "head.final_layer.0",
            "neck.final_layer.bn": "head.final_layer.1",
            "head.fc": "head.classifier",
        },
    ),
    Layout("mmdet", r"(rpn|bbox|roi|mask)_head\..+", {}),
)
_NECK = {  # of mmdetection; the official repository has our names
    "neck.reduction_conv.conv": "neck.reduction_conv.0",
    **{f"neck.fpn_convs.{i}.conv": f"neck.fpn_conv.{i}" for i in range(5)},
    "neck.reduction_conv.0": "neck.reduction_conv.0",
    **{f"neck.fpn_conv.{i}": f"neck.fpn_conv.{i}" for i in range(5)},
}
_RPN = {
    "rpn_head.rpn_conv": "head.rpn.head.conv.0.0",
    "rpn_head.rpn_cls": "head.rpn.head.cls_logits",
    "rpn_head.rpn_reg": "head.rpn.head.bbox_pred",
}
_ROI = {
    "bbox_head.shared_fcs.0": "head.roi_heads.box_head.fc6",
    "bbox_head.shared_fcs.1": "head.roi_heads.box_head.fc7",
    "bbox_head.fc_cls": "head.roi_heads.box_predictor.cls_score",
    "bbox_head.fc_reg": "head.roi_heads.box_predictor.bbox_pred",
    **{f"mask_head.convs.{i}.conv": f"head.roi_heads.mask_head.{i}.0" for i in range(4)},
    "mask_head.upsample": "head.roi_heads.mask_predictor.conv5_mask",
    "mask_head.conv_logits": "head.roi_heads.mask_predictor.mask_fcn_logits",
}
# Before our own: some of their names are also ours.
DETECTORS = (
    Layout("detector", r"bbox_head\.fc_cls\.weight", _NECK | _RPN | _ROI, convention="official"),
    Layout(
        "mmdet2",
        r"roi_head\.bbox_head\.fc_cls\.weight",
        _NECK | _RPN | {f"roi_head.{theirs}": ours for theirs, ours in _ROI.items()},
        background_last=True,
        convention="mmdet2",
    ),
)
HEADLESS = Layout("backbone", "", {})
OURS = Layout("ours", "", {})


@dataclass(frozen=True)
class Contents:
    """A checkpoint taken apart.

    Args:
        layout: What it was recognised as.
        trunk: Tensors of the trunk by our names, `backbone.*`.
        rest: Everything beside the trunk, by the names below the wrapper.
        split: Whether the trunk alone has `backbone.` before its names, as in a task of ours or OpenMMLab's.
    """

    layout: Layout
    trunk: State
    rest: State
    split: bool

    @property
    def head(self) -> State:
        """The head by our names, `head.*`; all of `rest` for a checkpoint of ours."""
        if self.layout is OURS:
            return self.rest
        starts = {k: start for k in self.rest if (start := _start(k, self.layout))}
        found = {self.layout.head[start] + k.removeprefix(start): self.rest[k] for k, start in starts.items()}
        return _with_background_first(found) if self.layout.background_last else found

    @property
    def unknown(self) -> list[str]:
        """Names that the layout does not explain."""
        if self.split:
            return []
        return [k for k in self.rest if not (_start(k, self.layout) or NEVER_WANTED.match(k))]


def take_apart(state: State, name: str, parameters: Collection[str] = ()) -> Contents:
    """Recognise a checkpoint by its keys.

    Args:
        state: Tensors by their names in the checkpoint.
        name: What messages call the checkpoint.
        parameters: Names in the task to fill; a checkpoint that has some of them beside a `backbone.` is ours.

    Raises:
        ValueError: If there is no HRNet in it, or more than one that could be meant.
    """
    prefix = _trunk_prefix(state, name)
    trunk = {k for k in state if k.startswith(prefix) and TRUNK.match(k, len(prefix))}
    # `backbone.` before the trunk alone is a task or OpenMMLab; before everything it is one more wrapper.
    split = prefix.endswith("backbone.") and not any(k.startswith(prefix) for k in state.keys() - trunk)
    root = prefix.removesuffix("backbone.") if split else prefix
    rest = {k.removeprefix(root): x for k, x in state.items() if k.startswith(root) and k not in trunk}
    ours = {f"backbone.{k.removeprefix(prefix)}": state[k] for k in state if k in trunk}
    return Contents(_layout(rest, split, parameters), ours, rest, split)


def translate(state: State, own: State, name: str) -> tuple[Layout, State, list[str]]:
    """A checkpoint's tensors by the names that they have in a module of ours.

    Args:
        state: Tensors by their names in the checkpoint.
        own: Tensors of the module to fill, those of its trunk as `backbone.*`.
        name: What messages call the checkpoint.

    Returns:
        The recognised layout; the tensors by our names, the head's only if the module has some of it; and the names
        that the layout does not explain.

    Raises:
        ValueError: If there is no HRNet in the checkpoint, or more than one network or head that could be meant.
    """
    parameters = {n for n, x in own.items() if isinstance(x, nn.Parameter) and not n.startswith("backbone.")}
    contents = take_apart(state, name, parameters)
    trunk = contents.trunk
    if contents.layout is OURS:
        head, statistics = _head_of_ours(contents.rest, parameters, own)
        trunk = trunk | statistics
    else:
        head = {} if parameters.isdisjoint(contents.head) else contents.head
    wanted = {n: x for n, x in head.items() if n in own or not NEVER_WANTED.match(n)}
    return contents.layout, trunk | wanted, contents.unknown


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
        one, two = state[first + sample], state[other + sample]
        if one is not two and (one.is_meta or two.is_meta or not torch.equal(one, two)):
            raise ValueError(
                f"{name} holds two networks, {first!r} and {other!r} (teacher and student?); "
                "save the one you want into a file of its own."
            )
    return first


def _with_background_first(head: State) -> State:
    """A detector's head with the rows of the background before those of the objects, zeros where it has none."""
    moved = {}
    for name, x in head.items():
        part = name.rpartition(".")[0]
        if part.endswith("box_predictor.cls_score"):
            moved[name] = x.roll(1, 0)
        elif part.endswith(("box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")):
            rows = 4 if part.endswith("bbox_pred") else 1
            moved[name] = torch.cat([x.new_zeros(rows, *x.shape[1:]), x])
    return head | moved


def _layout(rest: State, split: bool, parameters: Collection[str]) -> Layout:
    for layout in DETECTORS if split else ():
        if any(re.fullmatch(layout.marker, k) and k not in parameters for k in rest):
            return layout
    if split and rest.keys() & set(parameters):
        return OURS
    for layout in OPENMMLAB if split else OFFICIAL:
        if any(re.fullmatch(layout.marker, k) for k in rest):
            return layout
    return OURS if split and rest else HEADLESS


def _start(key: str, layout: Layout) -> str | None:
    return next((start for start in layout.head if key.startswith(f"{start}.")), None)


def _head_of_ours(rest: State, parameters: Collection[str], own: State) -> tuple[State, State]:
    """What stands beside the trunk in our checkpoint, for this module; of another task at most buffers.

    A buffer that tasks share is the normalisation of images. With it the trunk's statistics of batch norm, if the task
    had its own in a joint run.
    """
    task, head = _of_this_task(rest, set(parameters), own)
    before = f"norms.{task}."
    statistics = {
        f"backbone.{k.removeprefix(before).replace('/', '.')}": x for k, x in rest.items() if k.startswith(before)
    }
    if head.keys().isdisjoint(parameters):
        head = {n: x for n, x in head.items() if n in own}
    return head, {} if task is None else statistics


def _of_this_task(rest: State, parameters: set[str], own: State) -> tuple[str | None, State]:
    """The tensors of our checkpoint as this task names them: its own, or those of `tasks.<name>` of a joint run."""
    if rest.keys() & parameters or not parameters:
        return None, rest
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
    return next(iter((same or fitting).items()), (None, rest))
