"""Weighted means by name: what is counted, forgotten, kept in checkpoints and taken up again."""

import math

import pytest
import torch

from tasks.metrics.means import Means

CPU = torch.device("cpu")


def value(number: float) -> torch.Tensor:
    return torch.tensor(number)


def filled(*rows: tuple[dict[str, float], float]) -> Means:
    means = Means()
    for values, weight in rows:
        means.update({name: value(number) for name, number in values.items()}, weight)
    return means


ROWS = (({"a": 2.0, "b": 1.0}, 3), ({"a": 5.0}, 1), ({"b": 4.0}, 2))
EXPECTED = {"a": 11 / 4, "b": 11 / 5}


def test_each_name_has_the_mean_of_its_own_samples() -> None:
    means = filled(*ROWS)
    assert means.compute() == pytest.approx(EXPECTED)
    assert means.names == ["a", "b"]
    once = Means()
    once.update({"a": value(2.0)})
    once.update({"a": value(4.0)})  # a weight of 1 each
    assert once.compute() == {"a": 3.0}


def test_a_value_that_is_none_shows() -> None:
    assert math.isnan(filled(({"a": 1.0}, 1), ({"a": math.nan}, 1)).compute()["a"])


def test_after_a_reset_names_are_known_and_have_no_mean() -> None:
    means = filled(*ROWS)
    means.reset()
    assert means.names == ["a", "b"]
    assert means.compute() == {}
    means.update({"b": value(7.0)}, 2)
    assert means.compute() == {"b": 7.0}


def test_many_small_values_are_added_without_rounding() -> None:
    means = filled(({"a": 2.0**24}, 1))
    for _ in range(10):
        means.update({"a": value(1.0)})
    assert means.compute()["a"] == (2**24 + 10) / 11


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_from_a_state_it_goes_on_as_if_it_had_not_been_stopped(cut: int) -> None:
    first, second = filled(*ROWS[:cut]), Means()
    state = first.state()
    assert all(isinstance(number, float) for row in state.values() for number in row)
    second.load(state, CPU)
    for values, weight in ROWS[cut:]:
        second.update({name: value(number) for name, number in values.items()}, weight)
    assert second.compute() == pytest.approx(EXPECTED)


def test_a_state_of_means_that_were_reset_brings_nothing() -> None:
    means = filled(*ROWS)
    means.reset()
    assert means.state() == {}
    other = Means()
    other.load(means.state(), CPU)
    assert other.compute() == {}
