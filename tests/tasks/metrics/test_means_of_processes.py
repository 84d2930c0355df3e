"""Means by name over batches and processes, kept in checkpoints and gone on with."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from tasks.metrics.means import Means

CPU = torch.device("cpu")


def test_a_state_goes_on_as_if_it_had_not_been_stopped() -> None:
    whole, first, second = Means(), Means(), Means()
    for value, weight in ((1.0, 2.0), (4.0, 1.0)):
        whole.update({"loss": torch.tensor(value)}, weight)
    first.update({"loss": torch.tensor(1.0)}, 2.0)
    second.load(first.state(), CPU)
    second.update({"loss": torch.tensor(4.0)}, 1.0)
    assert second.compute() == whole.compute() == {"loss": 2.0}
    assert second.state() == whole.state() == {"loss": [6.0, 3.0]}


def test_what_was_forgotten_is_none_of_the_state() -> None:
    means = Means()
    means.update({"loss": torch.tensor(1.0), "norm": torch.tensor(2.0)})
    means.reset()
    means.update({"loss": torch.tensor(3.0)})
    assert means.state() == {"loss": [3.0, 1.0]}


def _resumed(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    means = Means()
    means.load({"norm": [6.0, 3.0], "loss": [8.0, 4.0]}, CPU, known=rank > 0)
    means.update({"loss": torch.tensor(2.0 * rank)}, 2.0)  # `norm` comes again in a later step only
    state, computed = means.state(), means.compute()
    Path(folder, f"{rank}").write_text(repr((state, computed)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_go_on_know_the_same_names(tmp_path: Path) -> None:
    processes.spawn(_resumed, (str(tmp_path),), nprocs=2)
    expected = ({"norm": [6.0, 3.0], "loss": [12.0, 8.0]}, {"norm": 2.0, "loss": 1.5})
    for rank in "01":
        assert eval((tmp_path / rank).read_text()) == expected
