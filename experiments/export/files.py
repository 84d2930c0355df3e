"""The exported file: one graph for every batch size, with speaking names, what it is as metadata, and no foreign path.

Each format is a pair: how a graph is written, and how the file runs again, images -> tensors by name.
"""

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from experiments.cli.files import replacing
from experiments.config import ConfigError
from experiments.export.graph import Deployed

Run = Callable[[Tensor], dict[str, Tensor]]
OPSET = 20
METADATA = "hrnet"  # the key under which a file says what it is, as JSON
MODULES = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def require(kind: str) -> None:
    """Raises ConfigError where a format's library is not installed."""
    if missing := [name for name in MODULES[kind] if find_spec(name) is None]:
        raise ConfigError(f"{kind} needs {', '.join(missing)}: pip install 'hrnet-lightning[export]'.")


def traced(network: Deployed, image_size: tuple[int, int]) -> ExportedProgram:
    """The graph, for any number of images; for any height and width too where the task's answers go with each pixel."""
    image = torch.zeros(2, 3, *image_size, dtype=torch.uint8)
    sizes: dict[int, Any] = {0: Dim("batch", min=1)}
    if network.ending.any_size:
        # Where streams are repeated to meet (nearest), sizes are multiples of the coarsest stride.
        step = 1 if network.task.backbone.upsample == "bilinear" else max(network.task.backbone.strides)
        sizes |= {2: _sides("height", step), 3: _sides("width", step)}
    program = torch.export.export(network, (image,), dynamic_shapes=(sizes,), strict=False)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # of the machine that exports
    return program


def _sides(name: str, step: int) -> Any:
    return Dim.DYNAMIC if step == 1 else step * Dim(f"{name}_in_strides", min=1)


def write_pt2(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """For `torch.export.load`."""
    with replacing(path) as part, part.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def run_pt2(path: Path, names: list[str]) -> Run:
    """By torch alone."""
    with path.open("rb") as file:
        network = torch.export.load(file).module()

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return network(image)

    return run


def write_onnx(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """One file, weights included."""
    import onnx

    options: dict[str, Any] = {"input_names": ["image"], "output_names": names, "opset_version": OPSET}
    made = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **options)
    model = made.model_proto
    _tidy(model)
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA, value=json.dumps(metadata)))
    onnx.checker.check_model(model)
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())


def _tidy(model: Any) -> None:
    """Speaking names for the sizes that may differ, and nothing of the machine that exports."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    for part in graph.node:
        part.doc_string = ""
    del graph.value_info[:]  # sizes of what lies between, by names that are changed here
    axes = dict(zip(("batch", None, "height", "width"), graph.input[0].type.tensor_type.shape.dim, strict=True))
    renamed = {dim.dim_param: name for name, dim in axes.items() if name and dim.dim_param}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


def run_onnx(path: Path, names: list[str]) -> Run:
    """By ONNX Runtime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {"image": np.ascontiguousarray(image.numpy())})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def write_openvino(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """A pair of files, .xml and .bin beside it, which OpenVINO makes of the ONNX graph."""
    import openvino

    require("onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = path.with_suffix(".onnx.part")
    try:
        write_onnx(program, graph, names, metadata)
        model = openvino.convert_model(graph)
    finally:
        graph.unlink(missing_ok=True)
    model.set_rt_info(json.dumps(metadata), METADATA)
    parts = path.with_name(f"part-{path.name}")
    try:
        openvino.save_model(model, parts, compress_to_fp16=False)
        parts.with_suffix(".bin").replace(path.with_suffix(".bin"))
        parts.replace(path)
    finally:
        parts.unlink(missing_ok=True)
        parts.with_suffix(".bin").unlink(missing_ok=True)


def run_openvino(path: Path, names: list[str]) -> Run:
    """By OpenVINO in float32: by itself it would take bfloat16 on processors that have it."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    network = openvino.Core().compile_model(str(path), "CPU", options)

    def run(image: Tensor) -> dict[str, Tensor]:
        found = network({"image": np.ascontiguousarray(image.numpy())})
        return {name: torch.from_numpy(np.array(found[name])) for name in names}

    return run


ENDINGS = {"pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
WRITE = {"pt2": write_pt2, "onnx": write_onnx, "openvino": write_openvino}
RUN = {"pt2": run_pt2, "onnx": run_onnx, "openvino": run_openvino}
