"""Two hosts, each a network namespace with an address of its own, train as one job by torchrun; one is cut off."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.experiments.training.test_processes import start, wait_for
from tests.experiments.training.test_resume import assert_same
from tests.experiments.training.toys import toy

PATIENCE = 20  # seconds that a collective waits for a host
ADDRESSES = ("10.77.31.1", "10.77.31.2")
BOTH = ["--trainer.accelerator", "cpu", "--trainer.strategy.class_path", "lightning.pytorch.strategies.DDPStrategy"]
BOTH += ["--trainer.strategy.init_args.find_unused_parameters", "true"]
SENTENCE = "Another process of this job has ended or cannot be reached"


def ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces that reach each other, and nothing else."""
    names = tuple(f"host{end}-{os.getpid()}" for end in "ab")
    lines = tuple(f"v{end}{os.getpid()}" for end in "ab")
    try:
        made = all(ip("netns", "add", name) for name in names)
        made = made and ip("link", "add", lines[0], "type", "veth", "peer", "name", lines[1])
        for name, line, address in zip(names, lines, ADDRESSES, strict=True):
            made = made and ip("link", "set", line, "netns", name)
            made = made and ip("-n", name, "addr", "add", f"{address}/24", "dev", line)
            made = made and ip("-n", name, "link", "set", line, "up") and ip("-n", name, "link", "set", "lo", "up")
        if not made:
            pytest.skip("needs the rights and the program `ip` to make network namespaces")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def line_of(host: str) -> str:
    return f"v{host[4]}{host.partition('-')[2]}"


def start_on(host: str, rank: int, words: list[str], log: Path) -> subprocess.Popen:
    """The command as docs/slurm.md has it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": line_of(host)}
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    command += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    command += [
        f"{ADDRESSES[0]}:29500",
        "--local-addr",
        ADDRESSES[rank],
        "--rdzv-conf",
        f"is_host={int(rank == 0)}",
        "-m",
        "experiments.run",
        *words,
    ]
    command += ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    with log.open("w") as said:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, process_group=0
        )


def ended(processes: list[subprocess.Popen], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]


def ended_by_hand(processes: list[subprocess.Popen]) -> None:
    """None of them outlives the test."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def step_of(runs: Path) -> int:
    paths = list(runs.glob("*/*/checkpoints/last.ckpt"))
    return torch.load(paths[0], weights_only=True)["global_step"] if paths else 0


@pytest.mark.slow
@pytest.mark.long
def test_two_hosts_train_as_two_processes_of_one_and_a_job_whose_host_is_cut_off_ends_and_goes_on(
    hosts: tuple[str, str], tmp_path: Path
) -> None:
    data, options = {"train": 16, "val": 7}, {"max_epochs": 60, "check_val_every_n_epoch": 60}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = start([*toy(tmp_path / "one", data=data, **options), *BOTH, "--trainer.devices", "2"])
    alone.communicate(timeout=240)
    assert alone.returncode == 0
    words = [*toy(tmp_path / "two", data=data, **options), *BOTH]
    words += ["--trainer.strategy.init_args.timeout", f"0:00:{PATIENCE}"]
    logs = [tmp_path / f"{end}.txt" for end in "ab"]
    jobs = [start_on(host, rank, words, logs[rank]) for rank, host in enumerate(hosts)]
    try:
        wait_for(lambda: step_of(tmp_path / "two" / "runs") >= 20)
        assert ip("-n", hosts[1], "link", "set", line_of(hosts[1]), "down")
        wait_for(lambda: all(SENTENCE in log.read_text() for log in logs), 4 * PATIENCE)
        assert ended(jobs[:1], 60) == [1]  # torchrun's own; on the other host it waits for the first one's store
    finally:
        ended_by_hand(jobs)
    before = step_of(tmp_path / "two" / "runs")
    assert 20 <= before < 240
    assert ip("-n", hosts[1], "link", "set", line_of(hosts[1]), "up")
    (run,) = (tmp_path / "two").glob("runs/toy/*")
    jobs = [start_on(host, rank, ["--resume", str(run)], logs[rank]) for rank, host in enumerate(hosts)]
    try:
        assert ended(jobs, 240) == [0, 0], "\n".join(log.read_text() for log in logs)
    finally:
        ended_by_hand(jobs)
    (whole,) = (tmp_path / "one").glob("runs/toy/*")
    assert_same(whole, run)
