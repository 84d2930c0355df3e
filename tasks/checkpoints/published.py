"""A published checkpoint as the task that it was made for, which the names and shapes of its tensors and its file tell.

    pose_hrnet_w32_256x192.pth -> PoseTask(HRNet("w32", multi_scale_output=False), 17), COCO's skeleton, crops 256x192
    HR18-WFLW.pth -> LandmarkTask(HRNet("w18", upsample="bilinear"), 98), WFLW's skeleton, crops 256x256

The layout says which head it has, the shapes which network and how many outputs, the number of outputs which data set,
and the file's name the size of crops and the codec. mmpose and mmsegmentation store names too, and these win. What
stays open is taken as most published files have it; `note` says all of it in one line, and every part can be replaced.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from timm.data import ImageNetInfo
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from hrnet.checkpoints import State, classes_in, skeleton_in
from hrnet.layouts import Contents, take_apart
from hrnet.variants import architecture_of

DATA_SETS = Path(__file__).parents[2] / "datamodules"  # files, read as such: tasks import no data
SIZE = re.compile(r"(?<![0-9a-z])(\d{2,4})x(\d{2,4})(?![0-9x])")
HEADS = {  # a tensor of ours that is one for each output -> the head that has it
    "head.weight": "keypoints",
    "head.3.weight": "v2",  # of landmarks, if the layout is that of faces
    "head.cls_head.weight": "ocr",
    "head.classifier.weight": "classes",
    "head.roi_heads.box_predictor.cls_score.weight": "objects",
}

NOT_HERE = {  # beginning of a tensor's name beside the trunk -> what the file is of which there is no task here
    r"(roi_head\.)?(bbox|mask)_head\.\d+\.": "a Cascade R-CNN or HTC, which no detector here is",
    r"(rpn|bbox|roi|mask)_head\.": "a detector whose head is none of those here",
    r"(head\.|keypoint_head\.)?(final_layers|deconv_layers)\.": (
        "a bottom-up pose network (HigherHRNet), and pose here is top-down"
    ),
    r"head\.\d\.\d\.|fc\.": "an ImageNet network whose head (the first one published) no task here has",
}
# The heads of FCOS, by its authors and in mmdetection, wherever they stand beside the trunk.
FCOS = re.compile(r"(^|\.)((rpn\.head\.|bbox_head\.)(cls_tower|bbox_tower|scales|centerness|conv_centerness|fcos_))")


@dataclass(frozen=True)
class Description:
    """What makes the task of a checkpoint.

    Args:
        task: Class of the task.
        arguments: Of its constructor, as plain data.
        preparation: How images were prepared, as DataModules say it of themselves; or the arguments alone of what their
            kind of data usually prepares images with.
        note: Where all this comes from, in one line.
    """

    task: str
    arguments: dict[str, Any]
    preparation: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Parsing:
    """A published segmentation data set: how its networks see images.

    Args:
        labels: File of a data set in `datamodules`, None if there is none.
        first: Of the classes there that the network has; those before are ignored in training.
        preparation: Arguments of what prepares the images of its DataModule.
        align_corners: Whether the plain head was trained so; OCR always was.
        arguments: Of the task, beyond.
    """

    labels: str | None
    preparation: dict[str, Any]
    first: int = 0
    align_corners: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


_CONTEXT = {"image_size": [480, 480], "evaluation": "long", "base_scale": 520 / 480}
PARSINGS = {
    19: Parsing("cityscapes", {"image_size": [512, 1024], "evaluation": "original", "base_scale": 2.0}),
    20: Parsing("lip", {"image_size": [473, 473], "evaluation": "stretch"}, arguments={"flip_test": True}),
    59: Parsing("pascal_context", _CONTEXT, first=1, arguments={"window": [480, 480], "window_stride": [320, 320]}),
    60: Parsing("pascal_context", _CONTEXT, arguments={"window": [480, 480], "window_stride": [320, 320]}),
    150: Parsing("ade20k", {"image_size": [520, 520], "evaluation": "short"}, align_corners=True),
    171: Parsing(None, {"image_size": [520, 520], "evaluation": "short"}, align_corners=True),  # COCO-Stuff
}
POSES = {17: ("coco", [256, 192]), 16: ("mpii", [256, 256])}
FACES = {"face": "FaceCodec", "mmpose face": "MSRACodec"}  # layouts -> how their landmarks are coded
LANDMARKS = {98: "wflw", 68: "w300", 29: "cofw", 19: "aflw"}
# Words in names of files whose key points are as many as COCO's or MPII's, but others.
OTHER_POSES = {"ap10k", "h36m", "macaque", "posetrack18", "mhp"}


def describe(state: State, meta: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Description:
    """The task that a checkpoint of others was made for.

    Args:
        state: Tensors by their names in the checkpoint.
        meta: What OpenMMLab's tools store beside them as `meta`; empty for others.
        name: Of the file.
        given: Arguments of the task that the user has said; `note` says so.

    Raises:
        ValueError: If it holds no HRNet, or no head of a task that there is here.
    """
    contents = take_apart(state, name)
    if any(FCOS.search(key) for key in state):
        raise ValueError(
            f"{name} is an FCOS, whose distances are exponentials with a factor a level where the FCOS here has a ReLU "
            "and the stride, so its head means nothing here: a training can start from its backbone, by "
            f"--model.backbone.weights {name}."
        )
    backbone = architecture_of(contents.trunk, name)
    key, kind = _head(contents, name)
    count = len(contents.head[key])
    if contents.layout.family in FACES:
        found = _landmarks(backbone, contents, count, meta, name, given)
    elif kind == "keypoints":
        found = _pose(backbone, count, meta, name, given)
    elif kind == "classes":
        found = _classification(backbone, count, meta, name)
    elif kind == "objects":
        found = _detection(backbone, contents, count - 1, meta, name)
    else:
        found = _segmentation(backbone, contents, kind, count, meta, name)
    said = f" Given: {', '.join(given)}." if given else ""
    return replace(found, note=found.note + said)


def _head(contents: Contents, name: str) -> tuple[str, str]:
    for key, kind in HEADS.items():
        if key in contents.head:
            return key, kind
    what = next((what for key, what in NOT_HERE.items() if any(re.match(key, k) for k in contents.rest)), None)
    raise ValueError(
        f"{name} is {what or 'an HRNet without a head that a task here has'}, so it predicts nothing: a training can "
        f"start from its backbone, by --model.backbone.weights {name}."
    )


def _pose(
    backbone: dict[str, Any], count: int, meta: Mapping[str, Any], name: str, given: Mapping[str, Any]
) -> Description:
    words = _words(name)
    labels, size = (None, [256, 192]) if words & OTHER_POSES else POSES.get(count, (None, [256, 192]))
    skeleton, source = _points(labels, count, meta)
    size, said = _crops(size, name)
    codec = "UDPCodec" if "udp" in words else "DarkCodec" if "dark" in words else "MSRACodec"
    sigma = 3.0 if size[0] >= 384 else 2.0
    arguments = {
        "backbone": backbone,
        "num_keypoints": count,
        "codec": {"class_path": codec, "init_args": {"sigma": sigma}},
        "flip_test": (skeleton or given.get("skeleton")) is not None,
        "skeleton": skeleton,
    }
    preparation = {"image_size": size, "crop": "unit" if codec == "UDPCodec" else "size", "box_padding": 1.25}
    return _description("PoseTask", arguments, preparation, name, f"{count} key points ({source}), {said}, {codec}")


def _landmarks(
    backbone: dict[str, Any],
    contents: Contents,
    count: int,
    meta: Mapping[str, Any],
    name: str,
    given: Mapping[str, Any],
) -> Description:
    family, words, labels = contents.layout.family, _words(name), LANDMARKS.get(count)
    skeleton, source = _points(labels, count, meta)
    size, said = _crops([256, 256], name)
    codec = "DarkCodec" if "dark" in words else FACES[family]
    # Of the targets: official ones are narrower than mmpose's, those of 300W the narrowest.
    sigma = 2.0 if family != "face" else 1.0 if labels == "w300" else 1.5
    arguments = {
        "backbone": backbone | {"upsample": "bilinear"},
        "num_landmarks": count,
        "codec": {"class_path": codec, "init_args": {"sigma": sigma}},
        "flip_test": family != "face" and (skeleton or given.get("skeleton")) is not None,
        "skeleton": skeleton,
    }
    preparation = {"image_size": size, "crop": "size", "box_padding": 1.25}
    return _description("LandmarkTask", arguments, preparation, name, f"{count} landmarks ({source}), {said}, {codec}")


def _segmentation(
    backbone: dict[str, Any], contents: Contents, head: str, count: int, meta: Mapping[str, Any], name: str
) -> Description:
    known = PARSINGS.get(count)
    align_corners = _align_corners(contents.layout.family, head, known, _words(name))
    backbone = backbone | {"upsample": "bilinear", "align_corners": align_corners}
    arguments = {"backbone": backbone, "num_classes": count, "head": head} | (known.arguments if known else {})
    if head == "ocr":
        arguments["ocr_channels"] = _ocr_channels(contents.head, name)
    source = "unknown names"
    if known is not None and known.labels is not None:
        names = _labels(known.labels)
        arguments |= {"class_names": names["names"][known.first :], "palette": names["palette"][known.first :]}
        arguments["label_flip_pairs"] = names["flip_pairs"]
        source = known.labels
    if stored := classes_in(meta, count):
        if stored["class_names"] != arguments.get("class_names"):
            arguments |= {"label_flip_pairs": []} | stored
        source = "its own names"
    preparation = dict(known.preparation) if known else {"image_size": [512, 512], "evaluation": "original"}
    if head == "ocr" and preparation["evaluation"] == "long":
        preparation["evaluation"] = "short"  # the OCR code's PASCAL-Context
    said = f"align_corners {str(align_corners).lower()}, evaluated size {preparation['evaluation']}"
    what = f"{count} classes ({source}), head {head}, {said}"
    return _description("SegmentationTask", arguments, preparation, name, what)


def _align_corners(family: str, head: str, known: Parsing | None, words: set[str]) -> bool:
    """What the file's name says (`ac`, `noac`), else what was usual where the file is from."""
    if words & {"ac", "noac"}:
        return "ac" in words
    return not family.startswith("mmseg") and (head == "ocr" or bool(known and known.align_corners))


def _ocr_channels(head: State, name: str) -> list[int]:
    queries = head.get("head.ocr_distri_head.object_context_block.f_pixel.0.weight")
    if queries is None:
        raise ValueError(f"{name} lacks parts of an OCR head (ocr_distri_head): is the file complete?")
    return [queries.shape[1], queries.shape[0]]


def _classification(backbone: dict[str, Any], count: int, meta: Mapping[str, Any], name: str) -> Description:
    names, source = None, "unknown names"
    if count == 1000:
        info = ImageNetInfo()
        names, source = [info.index_to_description(i, detailed=False) for i in range(count)], "ImageNet"
    if stored := classes_in(meta, count):
        names, source = stored["class_names"], "its own names"
    size = _size_in(name) or [224, 224]
    # timm's tags: these were trained for the larger share of the image.
    ratio = 0.95 if re.search(r"ssld|ms_aug", name.lower()) else 0.875
    arguments = {"backbone": backbone, "num_classes": count, "class_names": names}
    what = f"{count} classes ({source}), centre crop of {size[0]}x{size[1]} ({ratio:g} of the image)"
    return _description("ClassificationTask", arguments, {"image_size": size, "crop_ratio": ratio}, name, what)


def _detection(
    backbone: dict[str, Any], contents: Contents, count: int, meta: Mapping[str, Any], name: str
) -> Description:
    head = contents.head
    names, source = None, "unknown names"
    if count == 80:
        names, source = coco_names(), "COCO"
    if stored := classes_in(meta, count):
        names, source = stored["class_names"], "its own names"
    mixed, seen = (head.get(f"{part}.weight") for part in ("neck.reduction_conv.0", "head.roi_heads.box_head.fc6"))
    if mixed is None or seen is None:
        raise ValueError(f"{name} lacks parts of a detector (neck.reduction_conv, shared_fcs.0): is the file complete?")
    masks = any(".mask_predictor." in key for key in head)
    arguments = {
        "backbone": backbone,
        "num_classes": count,
        "detector": "mask_rcnn" if masks else "faster_rcnn",
        "channels": len(mixed),
        "box_channels": len(seen),
        "proposals": [1000, 1000],
        "convention": contents.layout.convention,
        "class_names": names,
        "category_ids": list(coco_categories()) if names == coco_names() else None,
    }
    preparation = {"image_size": [800, 1344], "sides": [800, 1333], "grouped": True}
    what = (
        f"{arguments['detector']}, {count} classes ({source}), {arguments['convention']} convention, images of 800x1333"
    )
    return _description("DetectionTask", arguments, preparation, name, what)


def coco_names() -> list[str]:
    """The 80 classes of COCO objects, by ascending id."""
    return list(coco_categories().values())


def coco_categories() -> dict[int, str]:
    """The same by their ids in COCO's files, 1 to 90 with gaps."""
    categories = enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    return {key: name for key, name in categories if name not in ("__background__", "N/A")}


def _description(
    task: str, arguments: dict[str, Any], preparation: dict[str, Any], name: str, what: str
) -> Description:
    note = f"{name}: a published {task}, HRNet {arguments['backbone']['variant']}, {what}."
    return Description(task, arguments, preparation, note)


def _points(labels: str | None, count: int, meta: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Skeleton of key points or landmarks and where it is from, in words: the file, or the data set of that many."""
    if (stored := skeleton_in(meta, count)) is not None:
        return stored, "its own names"
    return (None, "unknown names") if labels is None else (_skeleton(labels, count), labels)


def _crops(usual: list[int], name: str) -> tuple[list[int], str]:
    """(height, width) of crops, and in words where it is from."""
    found = _size_in(name)
    size = found or usual
    return size, f"crops of {size[0]}x{size[1]} {'as its name says' if found else 'as is usual'}"


def _labels(name: str) -> dict[str, Any]:
    (file,) = DATA_SETS.glob(f"*/{name}.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _skeleton(name: str, count: int) -> dict[str, Any]:
    """A skeleton's file with what it leaves out."""
    content = {"upper_body": [], "normaliser": None, **_labels(name)}
    sigmas = content["sigmas"]
    return content | {"sigmas": sigmas if isinstance(sigmas, list) else [sigmas] * count}


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", Path(name).stem.lower()))


def _size_in(name: str) -> list[int] | None:
    """(height, width) that a file's name says, in multiples of 32."""
    sizes = [[int(height), int(width)] for height, width in SIZE.findall(Path(name).name.lower())]
    return next((size for size in sizes if not (size[0] % 32 or size[1] % 32)), None)
