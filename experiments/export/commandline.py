"""Turn a run into a file that runs without this project.

python -m experiments.export runs/pose_coco/20260101-120000-abcdef
python -m experiments.export RUN --format openvino --output models/
python -m experiments.export RUN --decode false --image_size 384 288
python -m experiments.export RUN --int8                  # RUN/exported/<task>.int8.onnx

Writes RUN/exported/<task>.onnx (.pt2, .xml with .bin), of a joint run one for each task, and beside it a .json that
says what the file is and how far it agrees with the network. The file takes uint8 RGB images (B, 3, H, W) as `image`,
any number of them, and of segmentation any size; it normalises them and gives `keypoints` and `scores`, `labels`, or
`probabilities` and `labels`. A file that does not agree is not left behind.
"""

import hashlib
import itertools
import math
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import tasks
from datamodules.base import BaseDataModule, DataError, collate
from experiments import cli
from experiments.cli.files import write_json
from experiments.cli.shown import say
from experiments.config import ConfigError, read
from experiments.config.parser import make_data
from experiments.export import detection  # noqa: F401, says how its outputs end
from experiments.export.files import ENDINGS, RUN, WRITE, Run, difference_of, require, traced
from experiments.export.graph import Deployed
from experiments.export.quantised import quantise
from experiments.predict.base import preparer_of
from experiments.predictor import Predictor  # noqa: F401, knows all views
from experiments.training.start import import_named
from tasks import Task, find_checkpoint

TOLERANCE = 1e-4  # of a tensor's largest value
PLACES = {"keypoints": 1e-3, "boxes": 1e-3}  # where a flat top of a heatmap turns a rounding into more
METRIC_TOLERANCE = 1e-3
SIZES = (1, 2, 3)  # of batches; the graph was traced with two images
LARGER = (1, 3)  # steps more of height and width, for graphs of images of any size
SAMPLES = 3
IMAGES = 256  # of the training split, for the ranges of int8
LOSS = 0.01  # of a metric by int8, at most; of an error, such a share of it


def export(
    run: str,
    *,
    format: Literal["onnx", "pt2", "openvino"] = "onnx",
    output: Path | None = None,
    decode: bool = True,
    flip_test: bool = False,
    int8: bool = False,
    image_size: tuple[int, int] | None = None,
    limit_batches: int | None = None,
    overwrite: bool = False,
    import_: tuple[str, ...] = (),
) -> dict[str, Path]:
    """Write a run as a file that runs without this project, and compare the two.

    Args:
        run: Run folder, checkpoint, published checkpoint, or timm name.
        format: onnx for ONNX Runtime and most others, pt2 for torch.export.load, openvino for OpenVINO.
        output: Folder to write to; RUN/exported when not given.
        decode: Give key points, classes or boxes, rather than heatmaps or logits.
        flip_test: Put the run's own test into the file, the mean with the mirrored image, at twice the time.
        int8: Quantise what was trained to eight bits, with ranges from images of the training split; the metric before
            and after is compared, and a file that loses more than 0.01 is not kept.
        image_size: HEIGHT and WIDTH that the network sees, instead of that of the training.
        limit_batches: Compare the metric on so many batches of the validation split; on all of it when not given.
        overwrite: Replace files that exist.
        import_: Module of your own with a task, codec or data set that the run names; once for each module.

    Returns:
        The file of each task; of a run with one task under its class's name.

    Raises:
        ConfigError: If a library is missing, a file exists, or the file does not agree with the network.
    """
    require(format)
    if int8:
        _check_int8(format, decode, image_size)
    import_named(import_)
    task = tasks.load(run)
    folder = output or _default_folder(run)
    ending = ".int8" * int8 + ENDINGS[format]
    files = {name: folder / f"{name or type(task).__name__}{ending}" for name in task.parts}
    if existing := [path for path in files.values() if path.exists() and not overwrite]:
        raise ConfigError(f"{existing[0]} exists: add --overwrite to replace it, or name another folder by --output.")
    data = None if image_size else _data_of(run)
    about = {"version": version("hrnet-lightning"), "checkpoint": _digest(run)}
    for name, single in task.singles().items():
        preparer = preparer_of(single, image_size and tuple(image_size))
        part = data.tasks[name] if data is not None and name else data
        if flip_test:
            _check_flip_test(single, decode)
        network = Deployed(single, decode, flip_test=flip_test)
        if network.ending.canvas(preparer) != preparer and part is not None:
            say("the metric is not compared: the run evaluates upright and wide images on canvases of their own")
            part = None
        if int8 and part is None:
            raise ConfigError(
                f"int8 takes ranges from training images of the run and is judged by its metric, and {run} has no data "
                "for either: export a run folder whose data are there, or leave --int8 out."
            )
        folder.mkdir(parents=True, exist_ok=True)
        report = _write(network, files[name], format, network.ending.canvas(preparer), part, about, limit_batches, int8)
        _print(files[name], report)
    return {name or type(task).__name__: path for name, path in files.items()}


main = partial(cli.call, export)
command = partial(cli.run, export)


def _write(
    network: Deployed,
    path: Path,
    format: str,
    preparer: Any,
    data: BaseDataModule | None,
    about: dict[str, Any],
    limit: int | None,
    int8: bool,
) -> dict[str, Any]:
    """Write and compare; what the file is and how far it agrees."""
    task, size = network.task, preparer.image_size
    program = traced(network, size)
    names = list(network(program.example_inputs[0][0]))
    about = about | {
        "task": type(task).__name__,
        "image_size": list(size),
        "preparation": preparer.to_dict(),
        "outputs": names,
        "flip_test": network.flip_test,
        "multiple_of": network.step if network.ending.any_size else 1,
        **network.ending.described(),
    }
    fresh = path.with_name(f"new-{path.name}")
    try:
        WRITE[format](program, fresh, names, about)
        run = RUN[format](fresh, names)
        samples = None if data is None else _samples_of(data, SAMPLES)
        found: dict[str, Any] = {"difference": _differences(network, run, size, samples)}
        for name, value in found["difference"].items():
            if not value <= (limit_of := PLACES.get(name, TOLERANCE)):
                raise ConfigError(f"`{name}` of the {format} file differs from the network by {value:.1e} of its "
                                  f"largest value, more than {limit_of}: the file is not kept.")  # fmt: skip
        if int8:
            found |= _quantised(network, fresh, data, limit, names, about)
        elif data is not None and network.decode:
            found |= _figures(task, network, data, run, limit)
        for part in sorted(path.parent.glob(f"{fresh.stem}.*")):
            part.replace(path.with_suffix(part.suffix))
    finally:
        for part in path.parent.glob(f"{fresh.stem}.*"):
            part.unlink()
    report = about | {"agreement": found}
    write_json(path.with_suffix(path.suffix + ".json"), report)
    return report


def _quantised(
    network: Deployed, path: Path, data: BaseDataModule, limit: int | None, names: list[str], about: dict[str, Any]
) -> dict[str, float]:
    """Quantise the file; the metric of the network and of the file, which loses at most `LOSS`."""
    task = network.task
    task.attach(data)
    key = task.monitor.partition("/")[2]
    images, original, about["precision"] = _training_images(data), path.read_bytes(), "int8"
    before = _figure(task, network, data, network, limit)
    for spared in (0, 1):  # where all of it loses too much, the last convolution stays as it was
        path.write_bytes(original)
        quantise(path, images, about, spared=spared)
        after = _figure(task, network, data, RUN["onnx"](path, names), limit)
        lost = before - after if task.mode == "max" else after - before
        undefined = math.isnan(before) and math.isnan(after)  # without a labelled sample in the batches looked at
        if undefined or lost <= LOSS * (1.0 if task.mode == "max" else before):
            return {f"{key} of the network": before, f"{key} in int8": after}
    raise ConfigError(
        f"{key} of the network is {before:.4f} and in int8 {after:.4f}, which loses more than {LOSS}: the file is not "
        "kept; export without --int8, or predict with --precision bf16 where the processor has it."
    )


def _training_images(data: BaseDataModule) -> list[Tensor]:
    """(3, H, W) uint8 images of the training split, spread over it."""
    dataset = data.split("train")
    rows = np.linspace(0, len(dataset) - 1, min(IMAGES, len(dataset))).astype(int).tolist()
    return [collate([{"image": dataset[row, 0]["image"]}])["image"][0] for row in rows]


def _check_flip_test(task: Task, decode: bool) -> None:
    """Refuse a test that there is none of."""
    if not task.hparams.get("flip_test"):
        raise ConfigError(
            f"--flip_test: the {type(task).__name__} of this run is evaluated without mirrored images: leave it out."
        )
    if not decode:
        raise ConfigError("--flip_test goes with decoding: leave --decode false or --flip_test out.")


def _check_int8(format: str, decode: bool, image_size: tuple[int, int] | None) -> None:
    """Refuse what int8 does not go with."""
    if format != "onnx":
        raise ConfigError(f"--int8 writes ONNX, which OpenVINO reads too, and not {format}: leave --format out.")
    if not decode or image_size:
        word = "--image_size" if image_size else "--decode false"
        raise ConfigError(f"--int8 is judged by the run's metric on its own images: leave {word} out.")


def _figures(task: Task, network: Deployed, data: BaseDataModule, run: Any, limit: int | None) -> dict[str, float]:
    task.attach(data)
    key = task.monitor.partition("/")[2]
    ours, theirs = (_figure(task, network, data, way, limit) for way in (network, run))
    if not math.isclose(ours, theirs, abs_tol=METRIC_TOLERANCE) and not (math.isnan(ours) and math.isnan(theirs)):
        raise ConfigError(f"{key} of the exported file is {theirs:.4f} and that of the network {ours:.4f}, more than "
                          f"{METRIC_TOLERANCE} apart: the file is not kept.")  # fmt: skip
    return {key: theirs, f"{key} of the network": ours}


def _differences(network: Deployed, run: Run, image_size: tuple[int, int], samples: Tensor | None) -> dict[str, float]:
    """Largest difference of each tensor, over batches of several sizes, as a share of the tensor's largest value.

    Where images may be of any size, larger ones are compared too: a graph may have kept the size it was traced with.

    Args:
        network: What was exported.
        run: The file.
        image_size: (height, width).
        samples: (N, 3, height, width) uint8 images of the data; noise where there are none.
    """
    worst: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)
    images = []
    for size in SIZES:
        image = torch.randint(0, 256, (size, 3, *image_size), generator=generator, dtype=torch.uint8)
        images.append(image if samples is None else samples[torch.arange(size) % len(samples)].contiguous())
    if network.ending.any_size:
        height, width = (side + more * network.step for side, more in zip(image_size, LARGER, strict=True))
        images.append(images[0].tile(1, 1, 2, 2)[..., :height, :width].contiguous())
    for image in images:
        with torch.inference_mode():
            expected = network(image)
        found = run(image)
        if network.decode:
            found = network.ending.aligned(found, expected)
        for name, value in expected.items():
            worst[name] = max(worst.get(name, 0.0), difference_of(found[name], value))
    return worst


def _samples_of(data: BaseDataModule, count: int) -> Tensor:
    """(N, 3, height, width) images of the first evaluated samples that have one size."""
    dataset = data.split("val")
    samples = [dataset[row, 0] for row in range(min(count, len(dataset)))]
    return collate([{"image": s["image"]} for s in samples if s["image"].shape == samples[0]["image"].shape])["image"]


def _figure(task: Task, network: Deployed, data: BaseDataModule, run: Run, limit: int | None) -> float:
    """The task's monitored metric on the validation split, by what `run` answers; `task` is attached to the data."""
    task.reset()
    task.partial = limit is not None
    for batch in itertools.islice(data.val_dataloader(), limit):
        task.update(network.ending.predictions(run(batch["image"]), batch), batch)
    value = task.compute()[task.monitor.partition("/")[2]]
    task.reset()
    return value


def _data_of(run: str) -> BaseDataModule | None:
    """The data of a run folder, if they are there."""
    file = Path(run) / "config.yaml"
    if not file.is_file():
        return None
    content = read(file)
    try:
        data = make_data(content, [(str(file), content)])
        data.prepare_data()
        data.setup("validate")
    except DataError as error:
        say(f"the metric is not compared, since the run's data cannot be read: {str(error).splitlines()[0]}")
        return None
    return data


def _default_folder(run: str) -> Path:
    path = Path(run)
    if path.is_dir():
        return path / "exported"
    return path.parent.parent / "exported" if path.parent.name == "checkpoints" else Path("exported")


def _digest(run: str) -> str | None:
    """SHA-256 of the checkpoint's file, so that one can tell later what a file was made of."""
    path = find_checkpoint(run) if Path(run).exists() else None
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _print(path: Path, report: dict[str, Any]) -> None:
    size = path.stat().st_size + sum(p.stat().st_size for p in path.parent.glob(f"{path.stem}.bin"))
    say(f"{path}  {size / 2**20:.1f} MiB")
    agreement = report["agreement"]
    for name, value in agreement["difference"].items():
        say(f"  {name}: differs by {value:.1e} of its largest value")
    for name, value in agreement.items():
        if name != "difference":
            say(f"  {name}: {value:.4f}")
