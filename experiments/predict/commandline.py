"""Predict on your own pictures and videos with a trained task or a published checkpoint.

python -m experiments.predict runs/pose_coco/20260101-120000-abcdef photo.jpg clip.mp4
python -m experiments.predict pose_hrnet_w32_256x192.pth photo.jpg
python -m experiments.predict runs/pose_coco/... val2017/ --boxes annotations/person_keypoints_val2017.json
python -m experiments.predict runs/pose_coco/... photos/ --detector fasterrcnn_resnet50_fpn=weights.pth
python -m experiments.predict runs/seg_folder/... 'photos/*.jpg' --save masks overlays --output masks/

Writes overlays/, masks/ (indexed PNG), predictions.json (COCO results) and predictions.csv, of a joint run in a folder
for each task. In Python: `experiments.predictor.Predictor`.

The first line says what a published file is taken for. Each part can be replaced, as can that of a task trained here:
--image_size, --skeleton, --class_names, and --model.KEY VALUE for an argument of the task's constructor, such as
--model.flip_test false --model.codec UDPCodec --model.backbone.align_corners true.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

import tasks
from datamodules.base import DataError
from datamodules.skeleton import Skeleton
from datamodules.text_files import read_text
from experiments.cli import program
from experiments.cli.mistakes import sentence_of
from experiments.config import ConfigError, split_flags
from experiments.config.files import combine
from experiments.predict.base import JointResult, Result, view_of
from experiments.predict.boxes import BoxSource, CocoBoxes, TorchvisionDetector, whole_image
from experiments.predict.files import SAVES, PredictionFiles, refuse_existing
from experiments.predict.media import Failure, Source, find_sources, fixed_part, read_photos, unread
from experiments.predict.pose import skeleton_of
from experiments.predict.video import video_info
from experiments.predictor import MAX_PIXELS, Predictor
from experiments.training.start import add_import, import_named, show_weight_reports
from tasks import Task


def main(argv: Sequence[str] | None = None) -> list[Failure]:
    """Predict as the command line does; for notebooks and tests.

    Args:
        argv: Words of the command; those of the process when not given.

    Returns:
        The files that could not be predicted on; they are printed too.

    Raises:
        ConfigError: For a mistake in the words.
        DataError: If a file of boxes is not as described.
    """
    words, changes = _split_model_flags(list(sys.argv[1:] if argv is None else argv))
    options = _parser().parse_args(words)
    sources = find_sources(options.inputs)
    if others := unread(options.inputs):
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        print(f"files left out, since they are no images by their ending: {kinds}", file=sys.stderr)
    device = _device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    show_weight_reports()
    import_named(options.modules)
    task = _load(options, changes)
    saves = _saves(task, options.save)
    folder = Path(options.output) if options.output else _default_folder(options.run, options.inputs[0])
    folders = {name: folder / name for name in saves}
    if not options.overwrite:
        for name, kinds in saves.items():
            refuse_existing(folders[name], sources, kinds)
    boxes = _box_source(task, options, device)
    predictor = Predictor(
        task,
        image_size=options.image_size and tuple(options.image_size),
        boxes=boxes,
        device=device,
        batch_size=options.batch_size,
        max_pixels=options.max_pixels,
        upright=True if options.as_shown else False if options.as_stored else None,
        pixel_limit=options.pixel_limit,
    )
    reading = predictor.reading
    size_of = boxes.image_size if isinstance(boxes, CocoBoxes) else lambda path: None
    found = predictor.stream(read_photos(sources, upright=reading.upright, size_of=size_of, reading=reading))
    with ExitStack() as stack:
        files = {name: stack.enter_context(PredictionFiles(folders[name], saves[name])) for name in saves}
        failures = _write(found, files, _total(sources))
    _report(failures, len(sources), folder)
    return failures


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=program("experiments.predict"),
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add: Callable = parser.add_argument
    add("run", help="Run folder, checkpoint, published checkpoint, or timm name.")
    add("inputs", nargs="+", metavar="INPUT", help="Images, videos, folders, globs.")
    add("--output", metavar="FOLDER", help="Default: RUN/predictions/<name of the first input>.")
    add("--save", nargs="+", choices=SAVES, help="What to write; default: what fits the task.")
    add("--overwrite", action="store_true", help="Replace outputs that exist.")
    add("--device", help="Such as cpu or cuda:1; default: a GPU if there is one.")
    add("--batch_size", type=int, default=16, help="Samples at once, default 16.")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="Of a batch; a larger segmented image is cut into tiles.")
    add("--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="Instead of that of the training.")
    add("--pixel_limit", type=int, help="Photos of more pixels are refused before they are decoded; as in training.")
    turning = parser.add_mutually_exclusive_group()
    turning.add_argument("--as_stored", action="store_true", help="Do not turn photos as their EXIF orientation says.")
    turning.add_argument("--as_shown", action="store_true", help="Turn them; default: as the training did.")
    add("--class_names", nargs="+", metavar="NAME", help="Of the classes, or one text file with a name in each line.")
    add("--skeleton", metavar="NAME", help="Of the key points: coco, mpii, or a YAML file.")
    add_import(parser)
    pose = parser.add_argument_group("pose: where the boxes of persons come from; the whole image when none is given")
    which = pose.add_mutually_exclusive_group()
    which.add_argument("--boxes", metavar="FILE", help="COCO annotations, or COCO results of a detector.")
    which.add_argument("--detector", metavar="NAME=WEIGHTS", help="Of torchvision, with the file of its weights.")
    pose.add_argument(
        "--annotations", metavar="FILE", help="With results as --boxes: whose images say which id is whose."
    )
    pose.add_argument("--box_threshold", type=float, help="Lowest score; default 0.5 for a detector, 0 for a file.")
    return parser


def _split_model_flags(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without --model.KEY VALUE, and what these say."""
    rest, flags = [], []
    at = 0
    while at < len(words):
        count = 0 if not words[at].startswith("--model.") else 1 if "=" in words[at] else 2
        flags += words[at : at + count]
        rest += words[at : at + 1] if count == 0 else []
        at += max(1, count)
    values, questions = split_flags(flags)
    if questions:
        raise ConfigError(f"{questions[0]}: ask python -m experiments.run EXPERIMENT.yaml {questions[0]} instead.")
    return rest, combine([], values).get("model", {})


def _load(options: Namespace, changes: dict[str, Any]) -> Task:
    """The task, with the arguments that the words replace."""
    changes = dict(changes.get("init_args", changes))
    skeleton = options.skeleton or changes.get("skeleton")
    if skeleton is not None:
        changes["skeleton"] = skeleton if isinstance(skeleton, dict) else Skeleton.load(skeleton).to_dict()
    names = options.class_names or []
    if len(names) == 1 and Path(names[0]).is_file():
        names = [line.strip() for line in read_text(Path(names[0])).splitlines() if line.strip()]
    if names:
        changes["class_names"] = names
    return tasks.load(options.run, changes)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        said = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here ({said}): name another, such as cpu.") from error


def _saves(task: Task, wanted: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """What to write for each task of a joint run, for a single task under the empty name."""
    results = {name: view_of(part).result for name, part in task.parts.items()}
    saves: dict[str, tuple[str, ...]] = {}
    for name, result in results.items():
        saves[name] = result.saves_by_default if wanted is None else tuple(s for s in wanted if s in result.saves)
    for kind in wanted or ():
        if not any(kind in chosen for chosen in saves.values()):
            raise ConfigError(f"--save {kind}: a {type(task).__name__} gives no {kind}; leave it out.")
    return saves


def _default_folder(run: str, first: str) -> Path:
    named = fixed_part(Path(first).expanduser().absolute())
    name = named.stem if named.is_file() else named.name
    path = Path(run)
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else Path()
    return folder / "predictions" / name


def _box_source(task: Task, options: Namespace, device: torch.device) -> BoxSource:
    pose = next((part for part in task.parts.values() if view_of(part).looks_into_boxes), None)
    asked = [
        f"--{key}" for key in ("boxes", "detector", "annotations", "box_threshold") if getattr(options, key) is not None
    ]
    if pose is None and asked:
        raise ConfigError(f"{' '.join(asked)}: boxes are for pose, and this is a {type(task).__name__}.")
    if options.boxes:
        threshold = options.box_threshold or 0.0
        skeleton = Skeleton(**skeleton_of(pose))
        return CocoBoxes(options.boxes, skeleton, annotations=options.annotations, threshold=threshold)
    if options.detector:
        name, equals, weights = options.detector.partition("=")
        if not equals:
            raise ConfigError(f"--detector {name}: add the file of its weights, as in {name}=weights.pth.")
        threshold = 0.5 if options.box_threshold is None else options.box_threshold
        return TorchvisionDetector(name, weights, device=device, threshold=threshold)
    if asked:
        raise ConfigError(f"{' '.join(asked)} goes with --boxes or --detector: add one of them, or leave it out.")
    return whole_image


def _total(sources: Sequence[Source]) -> int | None:
    """Images and frames together, None where a video does not say its length."""
    total = 0
    for source in sources:
        frames: int | None = 1
        if source.is_video:
            try:
                frames = video_info(source.path).frames
            except DataError:
                frames = 1  # it is going to be one failure
        if frames is None:
            return None
        total += frames
    return total


class Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Bar) -> Text:
        """As text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def _write(found: Iterator[Result | Failure], files: dict[str, PredictionFiles], total: int | None) -> list[Failure]:
    failures = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console()) as progress:
        bar = progress.add_task("predict", total=total)
        for result in found:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                parts = result.parts if isinstance(result, JointResult) else {"": result}
                try:
                    for name, part in parts.items():
                        files[name].write(part)
                except DataError as error:
                    failures.append(Failure(result.photo.path, error))
            progress.advance(bar)
    return failures


def _report(failures: Sequence[Failure], sources: int, folder: Path) -> None:
    if failures:
        print(f"{len(failures)} of {sources} files could not be predicted on:", file=sys.stderr)
        for failure in failures:
            print(f"  {failure.path}: {failure.error}", file=sys.stderr)
    print(f"predictions: {folder}")


def command() -> int:
    """`main` with exit status: 0 on success, 1 where files failed, 2 with one message for a user's mistake."""
    try:
        return 1 if main() else 0
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what is complete is kept, unfinished files end with .part", file=sys.stderr)
        return 130
