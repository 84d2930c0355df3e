"""All kinds of files, and how many inputs each gets."""

from collections.abc import Sequence

from tests.fuzz.configurations import Experiments, Names, Skeletons
from tests.fuzz.harness import Kind
from tests.fuzz.pictures import Images, Masks
from tests.fuzz.runs import Runs
from tests.fuzz.tables import CocoKeyPoints, CocoObjects, Detections, FaceLists, FaceMatlab, Mpii
from tests.fuzz.weights import Checkpoints, WeightFiles

KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        CocoKeyPoints, CocoObjects, Detections, Mpii, FaceLists, FaceMatlab, Skeletons, Experiments, Names, Images,
        Masks, WeightFiles, Checkpoints, Runs,
    )
}  # fmt: skip


def plan(inputs: int, seed: int = 0, only: Sequence[str] | None = None) -> dict[str, range]:
    """Seeds of each kind, together as many as `inputs`."""
    names = list(only or KINDS)
    shares = sum(KINDS[name].share for name in names)
    counts = {name: inputs * KINDS[name].share // shares for name in names}
    for name in names[: inputs - sum(counts.values())]:
        counts[name] += 1
    return {name: range(seed, seed + count) for name, count in counts.items()}
