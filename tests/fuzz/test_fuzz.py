"""Some hundred changed files of every kind are read rightly or refused in a sentence; the harness sees what is not."""

import random
from pathlib import Path

import pytest

from datamodules.base import DataError
from tests.fuzz import harness
from tests.fuzz.harness import Kind, judge
from tests.fuzz.kinds import KINDS, plan

INPUTS = 500


@pytest.mark.parametrize("name", KINDS)
def test_every_input_is_read_rightly_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    kind = KINDS[name](tmp_path)
    outcomes = {seed: judge(kind, seed) for seed in plan(INPUTS)[name]}
    wrong = {seed: outcome for seed, outcome in outcomes.items() if not outcome.is_right}
    listed = "\n".join(
        f"python -m tests.fuzz --only {name} --seed {seed} --inputs 1: {outcome.kind}\n{outcome.said}"
        for seed, outcome in wrong.items()
    )
    assert not wrong, listed
    if len(outcomes) > 10:  # else what is changed is too little, or too much
        expected = {"read", "refused"} if kind.refuses else {"read"}
        assert {outcome.kind for outcome in outcomes.values()} == expected


def test_as_many_inputs_as_asked_for() -> None:
    assert sum(map(len, plan(INPUTS).values())) == INPUTS
    assert plan(3, 7, ["masks"]) == {"masks": range(7, 10)}


class Odd(Kind):
    """A kind of which every other thing is wrong."""

    name = "odd"
    action = "read"

    def write(self, rng: random.Random) -> Path:
        return self.folder / "file.x"

    def read(self, path: Path, rng: random.Random) -> None:
        match self.action:
            case "foreign":
                {}["x"]
            case "wrong":
                raise AssertionError
            case "unnamed":
                raise DataError("It is wrong.")
            case "refused":
                raise DataError(f"{path} is wrong.")
            case "hang":
                while True:
                    try:
                        while True:
                            pass
                    except Exception:
                        continue
            case "memory":
                self.held = b"x" * 2**28


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        ("read", "read"),
        ("refused", "refused"),
        ("foreign", "foreign error"),
        ("wrong", "wrong result"),
        ("unnamed", "poor sentence"),
        ("hang", "hang"),
        ("memory", "memory"),
    ],
)
def test_what_is_wrong_is_seen(action: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if action == "hang":
        monkeypatch.setattr(harness, "SECONDS", 0.1)
    monkeypatch.setattr(harness, "MEMORY", 2**25)
    kind = Odd(tmp_path)
    kind.action = action
    if action == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which says how much memory a process took")
    assert judge(kind, 0).kind == outcome


def test_equal_seeds_write_equal_files(tmp_path: Path) -> None:
    kind = KINDS["masks"](tmp_path)
    first = [kind.write(random.Random(f"masks {seed}")).read_bytes() for seed in range(20)]
    assert first == [kind.write(random.Random(f"masks {seed}")).read_bytes() for seed in range(20)]
    assert len(set(first)) == 20
