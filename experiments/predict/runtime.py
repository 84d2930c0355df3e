"""How a network runs in prediction, and which way is the fastest on this machine.

| runtime    | what it is                                     | precision                          |
|------------|------------------------------------------------|------------------------------------|
| `torch`    | `hrnet.for_inference`                          | float32, bf16                      |
| `compile`  | the same by `torch.compile`: minutes, at first | float32, bf16                      |
| `onnx`     | ONNX Runtime on the CPU                        | float32; int8, a file of its own   |
| `openvino` | OpenVINO on the CPU                            | float32, bf16; int8, the same file |

`auto` times those that are installed, `compile` apart, for a second on the first batch. The libraries compute backbone
and head; windows, mirrored and scaled images and decoding stay the task's own, so that answers are those of the task.
In float32 a way whose outputs differ from the task's is not taken.
"""

import copy
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from experiments.config import ConfigError
from experiments.export.files import ENDINGS, RUN, WRITE, Run, difference_of, require, traced
from experiments.export.graph import Deployed
from experiments.export.loaded import ExportedNetwork
from hrnet import for_inference
from hrnet.processor import has_bfloat16
from tasks import Task
from tasks.losses import Batch, Predictions

Runtime = Literal["auto", "torch", "compile", "onnx", "openvino"]
Precision = Literal["float32", "bf16", "int8"]

SECONDS = 1.0  # of comparing speeds
ROUNDS = 20  # at most
TOLERANCE = 1e-4  # of a tensor's largest value
LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}


class Network(Protocol):
    """What is asked of a task in prediction."""

    device: torch.device

    def outputs(self, batch: Batch) -> Any:
        """Outputs of a batch."""

    def predict(self, outputs: Any, batch: Batch) -> Predictions:
        """Predictions of outputs."""


def checked(
    task: Task | ExportedNetwork, runtime: Runtime | None, precision: Precision | None, device: Any
) -> tuple[str, str, torch.device]:
    """Runtime, precision and device that are meant where they are left out.

    Raises:
        ConfigError: If a combination does not go, with what does.
    """
    exported = task if isinstance(task, ExportedNetwork) else None
    runtime = runtime or ("torch" if exported is None else "auto")
    precision = precision or ("float32" if exported is None else exported.precision)
    on_cpu = exported is not None or runtime in LIBRARIES
    place = torch.device(device or ("cuda" if torch.cuda.is_available() and not on_cpu else "cpu"))
    if on_cpu and place.type != "cpu":
        raise ConfigError(
            f"{exported.path if exported else runtime} runs on the CPU here: leave --device out, or say cpu."
        )
    if exported is None and precision == "int8":
        raise ConfigError(
            "int8 needs a quantised file: python -m experiments.export RUN --int8, then predict with what it writes."
        )
    if precision == "bf16" and runtime == "onnx":
        raise ConfigError("ONNX Runtime has no bfloat16 on CPUs: --runtime openvino or torch, or --precision float32.")
    if precision == "bf16" and place.type == "cpu" and not has_bfloat16():
        raise ConfigError(
            "This processor has no instructions for bfloat16, and would be many times slower than in float32: leave "
            "--precision out, or take int8 by a file of python -m experiments.export RUN --int8."
        )
    if exported is not None:
        _check_file(exported, runtime, precision)
    if runtime in LIBRARIES:
        require(runtime)
    return runtime, precision, place


def _check_file(exported: ExportedNetwork, runtime: str, precision: str) -> None:
    readers = exported.readers()
    if runtime not in ("auto", *readers):
        raise ConfigError(
            f"{exported.path} is read by {' and '.join(readers)} and not by {runtime}: leave --runtime out, or predict "
            "with the run itself."
        )
    if precision == "bf16" and ("openvino" not in readers or exported.precision == "int8"):
        raise ConfigError(
            f"{exported.path} cannot be computed in bfloat16: export the run as ONNX or OpenVINO without --int8, or "
            "predict with the run itself and --precision bf16."
        )
    if (precision == "int8") != (exported.precision == "int8"):
        other = "python -m experiments.export RUN" + " --int8" * (precision == "int8")
        raise ConfigError(
            f"{exported.path} holds {exported.precision} and not {precision}: {other} writes such a file."
        )


def network_for(
    name: str, task: Task | ExportedNetwork, fast: Network | None, runtime: str, precision: str, device: torch.device
) -> Network:
    """What answers for a task.

    Args:
        name: Of the task in a joint run, else empty.
        task: As it was loaded.
        fast: The task by `for_inference`, on the device; None of an exported file.
        runtime: As `checked` gives it.
        precision: Likewise.
        device: Likewise.
    """
    if runtime == "torch" and precision == "float32" and fast is not None:
        return fast
    exact = precision == "float32"
    return Fastest(name, _ways(task, fast, runtime, precision, device), device, fast if exact else None, exact=exact)


def _ways(
    task: Task | ExportedNetwork, fast: Network | None, runtime: str, precision: str, device: torch.device
) -> dict[str, Callable[[], Network]]:
    """What may be taken, by name; none is prepared before it is needed."""
    if isinstance(task, ExportedNetwork):
        lower: Any = "bf16" if precision == "bf16" else "float32"
        readers = [reader for reader in task.readers() if precision != "bf16" or reader == "openvino"]
        names = [reader for reader in readers if _installed(reader)] if runtime == "auto" else [runtime]
        return {name: lambda name=name: task.on(name, lower) for name in names}
    ways: dict[str, Callable[[], Network]] = {}
    if runtime in ("auto", "torch"):
        ways["torch"] = (lambda: fast) if precision == "float32" else lambda: in_bfloat16(task, device)
    if runtime == "compile":
        ways["compile"] = lambda: compiled(task, precision, device)
    for name in LIBRARIES:
        possible = device.type == "cpu" and (precision == "float32" or name == "openvino")
        if runtime == name or (runtime == "auto" and possible and _installed(name)):
            ways[name] = lambda name=name: by_library(task, name, precision)
    return ways


def _installed(runtime: str) -> bool:
    return find_spec(LIBRARIES.get(runtime, "torch")) is not None


class Fastest:
    """The fastest of several ways to run a network, chosen on the first batch and said in one line.

    Args:
        name: Of the task in a joint run, else empty.
        ways: What makes each of them.
        device: Where batches are to be.
        reference: Whose outputs all must have; the first way when None.
        exact: Whether outputs are compared at all.

    Raises:
        ConfigError: If none can be taken.
    """

    def __init__(
        self,
        name: str,
        ways: Mapping[str, Callable[[], Network]],
        device: torch.device,
        reference: Network | None = None,
        *,
        exact: bool,
    ) -> None:
        self.name, self.ways, self.device, self.reference, self.exact = name, ways, device, reference, exact
        self.chosen: Network | None = None

    def outputs(self, batch: Batch) -> Any:
        """Those of the chosen way."""
        if self.chosen is None:
            self.chosen = self._choose(batch)
            self.reference = None  # its memory
        return self.chosen.outputs(batch)

    def predict(self, outputs: Any, batch: Batch) -> Predictions:
        """Likewise."""
        assert self.chosen is not None, "outputs come first"
        return self.chosen.predict(outputs, batch)

    def _choose(self, batch: Batch) -> Network:
        expected = None if self.reference is None else self.reference.outputs(batch)
        networks: dict[str, Network] = {}
        problems: dict[str, str] = {}
        for name, make in self.ways.items():
            try:
                network = make()
                found = network.outputs(batch)
            except ConfigError as error:
                problems[name] = str(error)
                continue
            expected = found if expected is None else expected
            difference = difference_of(found, expected) if self.exact else 0.0
            if difference <= TOLERANCE:
                networks[name] = network
            else:
                problems[name] = f"its outputs differ from the others' by {difference:.1e} of the largest"
        if not networks:
            raise ConfigError("; ".join(f"--runtime {name}: {problem}" for name, problem in problems.items()))
        seconds = _timed(networks, batch) if len(networks) > 1 else dict.fromkeys(networks, 0.0)
        best = min(seconds, key=lambda name: seconds[name])
        if len(self.ways) > 1:
            print(_said(self.name, best, seconds, problems, tuple(batch["image"].shape)), flush=True)
        return networks[best]


def _timed(networks: Mapping[str, Network], batch: Batch) -> dict[str, float]:
    """Median seconds of each, which take turns for a second."""
    taken: dict[str, list[float]] = {name: [] for name in networks}
    end = time.perf_counter() + SECONDS
    while not taken[next(iter(networks))] or (time.perf_counter() < end and len(taken[next(iter(networks))]) < ROUNDS):
        for name, network in networks.items():
            start = time.perf_counter()
            network.outputs(batch)
            taken[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in taken.items()}


def _said(
    part: str, best: str, seconds: Mapping[str, float], problems: Mapping[str, str], shape: tuple[int, ...]
) -> str:
    others = [f"{name} {1000 * value:.3g}" for name, value in seconds.items() if name != best]
    left = [f"{name} left out, {problem}" for name, problem in problems.items()]
    what = f"runtime of {part}" if part else "runtime"
    figures = "; ".join([f"{best}, {1000 * seconds[best]:.3g} ms a batch", *([", ".join(others)] if others else [])])
    return f"{what}: {figures} ({shape[0]} x {shape[-2]}x{shape[-1]})" + "".join(f"; {line}" for line in left)


def driven(task: Task, run: Callable[[Tensor], Any], device: torch.device) -> Task:
    """The task with `run` in place of backbone and head: windows, mirrored and scaled images go through it too.

    Args:
        task: Is left as it is.
        run: Normalised images (B, 3, H, W) -> what `from_streams` gives.
        device: Of the images.
    """
    task = copy.deepcopy(task).eval().requires_grad_(False).to(device)
    task.backbone.forward = lambda images: [images]
    task.from_streams = lambda streams, size: run(streams[0])
    return task


def in_bfloat16(task: Task, device: torch.device) -> Task:
    """Backbone and head in bfloat16; images are normalised, and outputs decoded, in float32."""
    low = for_inference(task).to(device).bfloat16()
    return driven(task, lambda images: _floats(_whole(low, images.bfloat16())), device)


def compiled(task: Task, precision: str, device: torch.device) -> Task:
    """The network by `torch.compile`, with weights as constants."""
    fast = for_inference(task).to(device)
    fast = fast.bfloat16() if precision == "bf16" else fast
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network = torch.compile(lambda images: _whole(fast, images), options={"freezing": device.type == "cpu"})

    def run(images: Tensor) -> Any:
        try:
            return _floats(network(images.to(dtype)))
        except RuntimeError as error:  # no compiler of C++, or one that is too old
            said = str(error).strip().splitlines()[0]
            raise ConfigError(f"torch.compile cannot compile here ({said}): leave --runtime compile out.") from error

    return driven(task, run, device)


def by_library(task: Task, runtime: str, precision: str) -> Task:
    """The network by ONNX Runtime or OpenVINO, from a graph that is made for each size of images."""
    network = Deployed(copy.deepcopy(task).cpu(), decode=False, normalised=True)
    runs: dict[tuple[int, int], Run] = {}

    def run(images: Tensor) -> Any:
        size = (images.shape[-2], images.shape[-1])
        key = (0, 0) if network.ending.any_size else size
        if key not in runs:
            runs[key] = _loaded(network, size, runtime, precision)
        return network.ending.outputs(runs[key](images))

    return driven(task, run, torch.device("cpu"))


def _loaded(network: Deployed, size: tuple[int, int], runtime: str, precision: str) -> Run:
    """The graph of a network, written, and opened by a library."""
    with torch.inference_mode(False), torch.no_grad(), TemporaryDirectory() as folder:
        try:
            program = traced(network, size)
            names = list(network(program.example_inputs[0][0]))
            path = Path(folder) / f"network{ENDINGS['onnx']}"
            WRITE["onnx"](program, path, names, {})
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"the network cannot be brought into the form that {runtime} reads ({said}): --runtime torch."
            ) from error
        return RUN[runtime](path, names, precision)


def _whole(task: Task, images: Tensor) -> Any:
    """Outputs of the backbone and head of normalised images."""
    return task.from_streams(task.backbone(images), (images.shape[-2], images.shape[-1]))


def _floats(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {name: _floats(value) for name, value in found.items()}
    return found.float() if isinstance(found, Tensor) else found
