"""What each sample of a final evaluation scored: a table for paired comparisons, and the worst twenty with pictures."""

import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]


class SampleScores:
    """Collects a row a sample, and a picture of each of the worst.

    A row has `sample` (an integer id), `score` (in [0, 1], high is good) and what else the task says; of equal scores
    that of the highest `confidence`, if rows have one, is the worst.

    Args:
        worst: How many pictures are kept.
    """

    def __init__(self, worst: int = 20) -> None:
        self.worst = worst
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._rows: list[Row] = []
        self._pictured: list[tuple[float, float, int, Row]] = []  # a heap, the best of the worst first
        self._number = itertools.count()

    def update(self, columns: Mapping[str, Tensor | list], draw: Callable[[int], Tensor | None]) -> None:
        """Add a batch.

        Args:
            columns: Of the rows, each as long as the batch; rows whose score is nan are left out.
            draw: Makes the picture of a sample of the batch, (3, H, W) uint8, if there is any to be made.
        """
        lists = {key: c.tolist() if isinstance(c, Tensor) else c for key, c in columns.items()}
        for i, values in enumerate(zip(*lists.values(), strict=True)):
            row = dict(zip(lists, values, strict=True))
            if row["score"] != row["score"]:
                continue
            self._rows.append(row)
            badness = (-row["score"], row.get("confidence", 0.0), next(self._number))
            if len(self._pictured) < self.worst or badness > self._pictured[0][:3]:
                add = heapq.heappush if len(self._pictured) < self.worst else heapq.heapreplace
                add(self._pictured, (*badness, {**row, "picture": draw(i)}))

    def gather(self) -> None:
        """Take the rows and pictures of all processes; every process calls it."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        everybody: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everybody, (self._rows, self._pictured))
        self._rows = [row for rows, _ in everybody for row in rows]
        self._pictured = [entry for _, entries in everybody for entry in entries]

    def tables(self) -> dict[str, list[Row]]:
        """`samples`, by id, and `worst`, with a `picture` (3, H, W) uint8 each; empty if there was no sample."""
        if not self._rows:
            return {}
        # A distributed sampler repeats some samples to give every process as many.
        rows = {row["sample"]: row for row in self._rows}
        ordered = sorted(self._pictured, key=lambda entry: entry[:3], reverse=True)
        worst = {entry[3]["sample"]: entry[3] for entry in reversed(ordered)}
        chosen = list(reversed(worst.values()))[: self.worst]
        return {"samples": [rows[key] for key in sorted(rows)], "worst": chosen}


def one(value: Any, index: int) -> Any:
    """A batch, its outputs or predictions -> those of one sample, as a batch of one."""
    if isinstance(value, Mapping):
        return {key: one(item, index) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(one(item, index) for item in value)
    return value[index : index + 1]
