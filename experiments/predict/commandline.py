"""Predict on your own pictures and videos with a trained task or a published checkpoint.

python -m experiments.predict runs/pose_coco/20260101-120000-abcdef photo.jpg clip.mp4
python -m experiments.predict pose_hrnet_w32_256x192.pth photo.jpg
python -m experiments.predict runs/pose_coco/.../exported/PoseTask.onnx photos/ --runtime auto
python -m experiments.predict runs/pose_coco/... val2017/ --boxes annotations/person_keypoints_val2017.json
python -m experiments.predict runs/pose_coco/... photos/ --detector runs/det_coco/...
python -m experiments.predict runs/pose_coco/... photos/ --detector fasterrcnn_resnet50_fpn=weights.pth
python -m experiments.predict runs/seg_folder/... 'photos/*.jpg' --save masks overlays --output masks/

Writes overlays/, masks/ (indexed PNG), predictions.json (COCO results) and predictions.csv, of a joint run in a folder
for each task. In Python: `experiments.predictor.Predictor`.

The first line says what a published file is taken for. Each part can be replaced, as can that of a task trained here:
--image_size, --skeleton, --class_names, and --model.KEY VALUE for an argument of the task's constructor, such as
--model.flip_test false --model.codec UDPCodec --model.backbone.align_corners true.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

import tasks
from datamodules.base import DataError
from datamodules.loading.text_files import read_text
from datamodules.skeleton import Skeleton
from experiments.cli import call, status
from experiments.cli.shown import say
from experiments.config import ConfigError, split_flags
from experiments.config.files import combine
from experiments.export.loaded import ExportedNetwork, is_exported
from experiments.predict.base import JointResult, Result, view_of
from experiments.predict.boxes import BOX_THRESHOLD, CocoBoxes, TorchvisionDetector
from experiments.predict.files import PredictionFiles, refuse_existing
from experiments.predict.media import Failure, Source, find_sources, fixed_part, unread
from experiments.predict.pose import skeleton_of
from experiments.predict.runtime import Precision, Runtime, checked
from experiments.predict.video import video_info
from experiments.predictor import MAX_PIXELS, Predictor
from experiments.training.start import import_named, show_weight_reports
from tasks import Task


def predict(
    run: str,
    inputs: list[str],
    *,
    output: Path | None = None,
    save: list[Literal["overlays", "json", "masks", "csv"]] | None = None,
    overwrite: bool = False,
    runtime: Runtime | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    image_size: tuple[int, int] | None = None,
    pixel_limit: int | None = None,
    as_stored: bool = False,
    as_shown: bool = False,
    class_names: list[str] | None = None,
    skeleton: str | None = None,
    boxes: str | None = None,
    detector: str | None = None,
    annotations: str | None = None,
    box_threshold: float | None = None,
    model: tuple[str, ...] = (),
    import_: tuple[str, ...] = (),
) -> list[Failure]:
    """Predict on files, and write what is found.

    Args:
        run: Run folder, checkpoint, published checkpoint, timm name, or a file that experiments.export wrote.
        inputs: Images, videos, folders, globs.
        output: Folder to write to; RUN/predictions/<name of the first input> when not given.
        save: What to write; what fits the task when not given.
        overwrite: Replace outputs that exist.
        runtime: What computes the network; auto times those that are installed (but for compile) on the first batch,
            takes the fastest with the same results and says so. torch for a run and auto for an exported file when not
            given.
        precision: Numbers that the network computes in: float32, bf16, or int8 for a file of experiments.export --int8.
        device: Such as cpu or cuda:1; a GPU if there is one.
        batch_size: How many samples pass the network at once.
        max_pixels: How many pixels these may have together; a larger segmented image is cut into tiles.
        image_size: HEIGHT and WIDTH that crops and classified images are brought to, instead of that of the training.
        pixel_limit: Photos of more pixels are refused before they are decoded; as in training when not given.
        as_stored: Do not turn photos as their EXIF orientation says; as the training did when not given.
        as_shown: Turn photos as their EXIF orientation says.
        class_names: Names of the classes, or one text file with a name in each line.
        skeleton: What the key points are: coco, mpii, or a YAML file.
        boxes: Where pose finds its persons: a file of COCO annotations, or of COCO results of a detector. When neither
            this nor a detector is given, a run that detects persons finds them itself; for any other the whole image
            is one box.
        detector: What finds them: run folder or checkpoint of a detection task, or NAME=WEIGHTS of a detector of
            torchvision, with the file of its weights.
        annotations: COCO file whose images say which id is whose, where boxes are results.
        box_threshold: Boxes with a lower score are left out; 0.5 for a detector and 0 for a file when not given.
        model: KEY=VALUE, an argument of the task's constructor; `--model.KEY VALUE` says the same.
        import_: Module of your own with a task, codec or data set that the checkpoint names; once for each module.

    Returns:
        The files that could not be predicted on; they are printed too.

    Raises:
        ConfigError: For a mistake in the words.
        DataError: If a file of boxes is not as described.
    """
    _refuse_both("as_stored", as_stored, "as_shown", as_shown)
    _refuse_both("boxes", boxes, "detector", detector)
    sources = find_sources(inputs)
    if others := unread(inputs):
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        say(f"files left out, since they are no images by their ending: {kinds}", error=True)
    show_weight_reports()
    import_named(import_)
    task = _task(run, _changes(model, skeleton, class_names or []))
    runtime, precision, place = checked(task, runtime, precision, device and _device(device))
    saves = _saves(task, save)
    folder = output or _default_folder(run, inputs[0])
    folders = {name: folder / name for name in saves}
    if not overwrite:
        for name, kinds in saves.items():
            refuse_existing(folders[name], sources, kinds)
    asked = {"boxes": boxes, "detector": detector, "annotations": annotations, "box_threshold": box_threshold}
    predictor = Predictor(
        task,
        image_size=image_size and tuple(image_size),
        **_box_source(task, place, asked),
        runtime=runtime,
        precision=precision,
        device=place,
        batch_size=batch_size,
        max_pixels=max_pixels,
        upright=True if as_shown else False if as_stored else None,
        pixel_limit=pixel_limit,
    )
    with ExitStack() as stack:
        files = {name: stack.enter_context(PredictionFiles(folders[name], saves[name])) for name in saves}
        failures = _write(predictor.files(sources), files, _total(sources))
    _report(failures, len(sources), folder)
    return failures


def main(argv: Sequence[str] | None = None) -> list[Failure]:
    """`predict` with the words of a command line, those of the process when not given; for notebooks and tests."""
    return call(predict, _with_model_flags(list(sys.argv[1:] if argv is None else argv)))


def command() -> int:
    """`main` with exit status: 0 on success, 1 where files failed, 2 with one message for a user's mistake."""
    code = status(lambda: 1 if main() else 0)
    if code == 130:
        print("stopped: what is complete is kept, unfinished files end with .part", file=sys.stderr)
    return code


def _with_model_flags(words: list[str]) -> list[str]:
    """The words with --model KEY=VALUE for each --model.KEY VALUE."""
    changed, rest = [], words[::-1]
    while rest:
        word = rest.pop()
        key, equals, value = word.removeprefix("--model.").partition("=")
        if not word.startswith("--model."):
            changed.append(word)
        elif equals or key.split(".")[-1] == "help":
            changed += ["--model", f"{key}{equals}{value}"]
        elif rest and not rest[-1].startswith("--"):
            changed += ["--model", f"{key}={rest.pop()}"]
        else:
            raise ConfigError(f"The flag {word} lacks a value.")
    return changed


def _refuse_both(name: str, given: Any, other: str, also: Any) -> None:
    if given and also:
        raise ConfigError(f"--{name} and --{other} exclude each other: leave one of them out.")


def _changes(model: Sequence[str], skeleton: str | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Arguments of the task that the words replace."""
    values, questions = split_flags([f"--model.{change}" for change in model])
    if questions:
        raise ConfigError(f"{questions[0]}: ask python -m experiments.run EXPERIMENT.yaml {questions[0]} instead.")
    changes = combine([], values).get("model", {})
    changes = dict(changes.get("init_args", changes))
    skeleton = skeleton or changes.get("skeleton")
    if skeleton is not None:
        changes["skeleton"] = skeleton if isinstance(skeleton, dict) else Skeleton.load(skeleton).to_dict()
    if len(class_names) == 1 and Path(class_names[0]).is_file():
        class_names = [line.strip() for line in read_text(Path(class_names[0])).splitlines() if line.strip()]
    return changes | ({"class_names": list(class_names)} if class_names else {})


def _task(run: str, changes: dict[str, Any]) -> Task | ExportedNetwork:
    if not is_exported(run):
        return tasks.load(run, changes)
    if changes:
        raise ConfigError(f"{run} is exported, so its {', '.join(changes)} cannot be replaced: predict with the run.")
    return ExportedNetwork(run)


def _kind(task: Task | ExportedNetwork) -> str:
    return (task.kind if isinstance(task, ExportedNetwork) else type(task)).__name__


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        said = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here ({said}): name another, such as cpu.") from error


def _saves(task: Task | ExportedNetwork, wanted: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """What to write for each task of a joint run, for a single task under the empty name."""
    results = {name: view_of(part).result for name, part in task.parts.items()}
    saves: dict[str, tuple[str, ...]] = {}
    for name, result in results.items():
        saves[name] = result.saves_by_default if wanted is None else tuple(s for s in wanted if s in result.saves)
    for kind in wanted or ():
        if not any(kind in chosen for chosen in saves.values()):
            raise ConfigError(f"--save {kind}: a {_kind(task)} gives no {kind}; leave it out.")
    return saves


def _default_folder(run: str, first: str) -> Path:
    named = fixed_part(Path(first).expanduser().absolute())
    name = named.stem if named.is_file() else named.name
    path = Path(run)
    inside = path.parent.name in ("checkpoints", "exported")
    folder = path if path.is_dir() else path.parent.parent if inside else Path()
    return folder / "predictions" / name


def _box_source(task: Task | ExportedNetwork, device: torch.device, asked: dict[str, Any]) -> dict[str, Any]:
    """What the words about boxes say, as arguments of `Predictor`."""
    pose = next((part for part in task.parts.values() if view_of(part).looks_into_boxes), None)
    named = " ".join(f"--{key}" for key, value in asked.items() if value is not None)
    if pose is None and named:
        raise ConfigError(f"{named}: boxes are for pose, and this is a {_kind(task)}.")
    if asked["annotations"] and not asked["boxes"]:
        raise ConfigError("--annotations goes with --boxes: add it, or leave --annotations out.")
    threshold = asked["box_threshold"]
    if asked["boxes"]:
        skeleton = Skeleton(**skeleton_of(pose))
        return {
            "boxes": CocoBoxes(asked["boxes"], skeleton, annotations=asked["annotations"], threshold=threshold or 0.0)
        }
    limit: float = BOX_THRESHOLD if threshold is None else threshold
    if asked["detector"]:
        name, equals, weights = asked["detector"].partition("=")
        if equals:
            return {"boxes": TorchvisionDetector(name, weights, device=device, threshold=limit)}
        if not Path(name).exists():
            raise ConfigError(
                f"--detector {name}: there is no such run folder or checkpoint. Name one of a detection task, or a "
                f"detector of torchvision with the file of its weights, as in {name}=weights.pth."
            )
        return {"detector": name, "box_threshold": limit}
    if threshold is not None and not any(view_of(part).finds_boxes for part in task.parts.values()):
        raise ConfigError("--box_threshold goes with --boxes or --detector: add one of them, or leave it out.")
    return {"box_threshold": limit}


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
            say(f"  {failure.path}: {failure.error}", error=True)
    if folder.is_dir():
        say(f"predictions: {folder}")
