"""Eight bits instead of thirty-two: an ONNX file whose convolutions and sums are quantised after training.

Ranges of activations are the smallest and largest values over some training images; weights have a scale for each
output channel. Activations are unsigned: signed ones take two to three times as long on x86. What comes before the
first convolution (normalisation) and after the last (decoding) stays in float32.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.cli.files import replacing
from experiments.export.files import METADATA
from hrnet.processor import has_int8

CONVOLUTIONS = {"Conv", "Gemm", "MatMul"}
QUANTISED = [*sorted(CONVOLUTIONS), "Add", "Relu", "Concat", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool"]
BATCH = 8  # images at once in calibration


def quantise(path: Path, images: list[Tensor], about: Mapping[str, Any], *, spared: int = 0) -> None:
    """Replace an ONNX file by the same in int8.

    Args:
        path: Of the file.
        images: (3, H, W) each, as the file takes them; several sizes where it takes any.
        about: What the new file says of itself.
        spared: So many of the last convolutions stay in float32.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load(path).graph
    with replacing(path) as part:
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # the library recommends a step that this graph has had
        try:
            quantize_static(
                path,
                part,
                _Images(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                nodes_to_exclude=sorted(_around(graph, spared)),
                per_channel=True,
                reduce_range=not has_int8(),  # where eight bits times eight are added up in sixteen, they overflow
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.root.setLevel(level)
        quantised = onnx.load(part)
        onnx.helper.set_model_props(quantised, {METADATA: json.dumps(about)})
        part.write_bytes(quantised.SerializeToString())


class _Images:
    """What the library reads images from, batch by batch.

    Args:
        images: (3, H, W) each.
    """

    def __init__(self, images: list[Tensor]) -> None:
        self.batches = self._batches(images)

    def _batches(self, images: list[Tensor]) -> Iterator[np.ndarray]:
        by_size: dict[tuple[int, ...], list[Tensor]] = {}
        for image in images:
            by_size.setdefault(tuple(image.shape), []).append(image)
        for same in by_size.values():
            for first in range(0, len(same), BATCH):
                yield np.ascontiguousarray(torch.stack(same[first : first + BATCH]).numpy())

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)


def _around(graph: Any, spared: int) -> set[str]:
    """Names of the nodes before the first convolution and after the last ones, of these so many included."""
    reached: set[str] = set()  # tensors that convolutions have made, directly or not
    before = set()
    for node in graph.node:  # in the order of computation
        if node.op_type in CONVOLUTIONS or reached & set(node.input):
            reached |= set(node.output)
        else:
            before.add(node.name)
    convolutions = [node for node in graph.node if node.op_type in CONVOLUTIONS]
    kept = convolutions[: len(convolutions) - spared]
    needed: set[str] = set()  # tensors that convolutions read, directly or not
    after = set()
    for node in reversed(graph.node):
        if any(node is conv for conv in kept) or needed & set(node.output):
            needed |= set(node.input)
        else:
            after.add(node.name)
    return before | after
