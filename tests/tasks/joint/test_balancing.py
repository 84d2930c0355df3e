"""Each method against figures worked out by hand, and the gradients of a toy network against plain autograd."""

import math

import pytest
import torch

from tasks.joint.balancing import METHODS, TorchJD, make_balancing
from tasks.joint.gradients import carry, combined, gradients_of, gram_matrix

NAMES = ["a", "b"]
LOSSES = torch.tensor([4.0, 1.0])


def gram_of(*gradients: list[float]) -> torch.Tensor:
    rows = torch.tensor(gradients)
    return rows @ rows.T


def test_fixed_gives_the_weights():
    balancing = make_balancing("fixed", NAMES, {"b": 3.0})
    torch.testing.assert_close(balancing(LOSSES), torch.tensor([1.0, 3.0]))


def test_uncertainty_settles_where_the_variance_is_the_loss():
    balancing = make_balancing("uncertainty", NAMES)
    torch.testing.assert_close(balancing(LOSSES), torch.tensor([0.5, 0.5]))
    optimizer = torch.optim.SGD(balancing.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        balancing.penalty(LOSSES).backward()
        optimizer.step()
    torch.testing.assert_close(balancing.log_variance.exp(), LOSSES, rtol=1e-4, atol=0)
    # At the optimum: L / (2 L) + log(L) / 2 for each, and factors 1 / (2 L).
    assert balancing.penalty(LOSSES).item() == pytest.approx(1 + math.log(4) / 2)
    torch.testing.assert_close(balancing(LOSSES), torch.tensor([1 / 8, 1 / 2]), rtol=1e-4, atol=0)


def test_uncertainty_leaves_out_what_a_step_lacks():
    balancing = make_balancing("uncertainty", NAMES)
    balancing.penalty(torch.tensor([math.nan, 3.0])).backward()
    torch.testing.assert_close(balancing.log_variance.grad, torch.tensor([0.0, (1 - 3.0) / 2]))


def test_dynamic_weight_average_follows_the_last_two_epochs():
    balancing = make_balancing({"name": "dwa", "temperature": 2.0}, NAMES)
    for epoch in ([[8.0, 1.0], [12.0, 1.0]], [[5.0, 1.0], [5.0, 1.0]]):  # means 10 then 5; 1 then 1
        for losses in epoch:
            torch.testing.assert_close(balancing(torch.tensor(losses)), torch.ones(2))
        balancing.end_epoch()
    a, b = math.exp(0.5 / 2), math.exp(1.0 / 2)
    torch.testing.assert_close(balancing(LOSSES), torch.tensor([2 * a / (a + b), 2 * b / (a + b)]))


def test_dynamic_weight_average_counts_the_steps_that_had_a_task():
    balancing, nan = make_balancing("dwa", NAMES, {"a": 2.0, "b": 0.5}), math.nan
    for epoch in ([[8.0, nan], [12.0, nan], [nan, 2.0]], [[5.0, nan], [nan, 1.0], [nan, 3.0]]):  # 10 then 5; 2 then 2
        for losses in epoch:
            balancing(torch.tensor(losses))
        balancing.end_epoch()
    a, b = math.exp(0.5 / 2), math.exp(1.0 / 2)
    expected = torch.tensor([2 * 2 * a / (a + b), 0.5 * 2 * b / (a + b)])
    torch.testing.assert_close(balancing(torch.tensor([1.0, nan])), expected)


def test_geometric_is_the_gradient_of_the_root_of_the_product():
    losses = LOSSES.clone().requires_grad_()
    (losses.prod() ** 0.5).backward()  # 2; its slopes are 2 / (2 * 4) and 2 / (2 * 1)
    torch.testing.assert_close(make_balancing("geometric", NAMES)(LOSSES), torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(losses.grad, torch.tensor([0.25, 1.0]))


def test_geometric_takes_weights_as_exponents_that_sum_to_one():
    losses = LOSSES.clone().requires_grad_()
    (losses[0] ** 0.75 * losses[1] ** 0.25).backward()
    torch.testing.assert_close(make_balancing("geometric", NAMES, {"a": 3.0})(LOSSES), losses.grad)


def test_gradnorm_makes_one_step_as_worked_out():
    balancing = make_balancing({"name": "gradnorm", "alpha": 1.0, "lr": 0.1}, NAMES)
    gram = gram_of([3.0, 0.0], [0.0, 1.0])
    # First step: paces are equal, wanted norm is 2. Slopes +3 and -1: 1 - 0.3 and 1 + 0.1, then brought to sum 2.
    torch.testing.assert_close(balancing(LOSSES, gram), torch.tensor([0.7, 1.1]) * 2 / 1.8)


def test_gradnorm_without_pace_ends_with_equal_norms():
    balancing = make_balancing({"name": "gradnorm", "alpha": 0.0, "lr": 0.01}, NAMES)
    gram = gram_of([3.0, 0.0], [0.0, 1.0])
    for _ in range(300):
        weights = balancing(LOSSES, gram)
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]), rtol=0.05, atol=0)


def test_gradnorm_gives_more_to_the_task_that_lags():
    balancing = make_balancing({"name": "gradnorm", "alpha": 1.5, "lr": 0.01}, NAMES)
    gram = gram_of([1.0, 0.0], [0.0, 1.0])
    balancing(torch.tensor([1.0, 1.0]), gram)
    for _ in range(20):
        weights = balancing(torch.tensor([0.9, 0.1]), gram)
    assert weights[0] > 1.1 > 0.9 > weights[1]


def pcgrad_by_hand(gradients: torch.Tensor, order: list[list[int]]) -> torch.Tensor:
    """Algorithm 1 of the paper, on the vectors themselves."""
    total = torch.zeros_like(gradients[0])
    for i, others in enumerate(order):
        mine = gradients[i].clone()
        for j in others:
            if j != i and mine @ gradients[j] < 0:
                mine -= (mine @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += mine
    return total


def test_pcgrad_projects_opposing_gradients():
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    factors = make_balancing("pcgrad", NAMES).shared(torch.ones(2), gradients @ gradients.T)
    # (1, 0) loses its part along (-1, 1): (1/2, 1/2). (-1, 1) loses its part along (1, 0): (0, 1).
    torch.testing.assert_close(factors @ gradients, torch.tensor([0.5, 1.5]))


def test_pcgrad_leaves_agreeing_gradients_alone_and_weighs_first():
    balancing = make_balancing("pcgrad", NAMES, {"a": 2.0})
    gram = gram_of([1.0, 0.0], [1.0, 1.0])
    torch.testing.assert_close(balancing.shared(balancing(LOSSES, gram), gram), torch.tensor([2.0, 1.0]))


def test_pcgrad_of_three_is_the_published_algorithm():
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [0.1, -1.0, -0.4]])
    balancing = make_balancing("pcgrad", ["a", "b", "c"])
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        order = [torch.randperm(3, generator=generator).tolist() for _ in range(3)]
        factors = balancing.shared(torch.ones(3), gradients @ gradients.T)
        torch.testing.assert_close(factors @ gradients, pcgrad_by_hand(gradients, order), rtol=1e-5, atol=1e-6)


def test_gradient_methods_keep_their_coefficients_between():
    balancing = make_balancing({"name": "pcgrad", "every": 2}, NAMES)
    opposing, agreeing = gram_of([1.0, 0.0], [-1.0, 1.0]), gram_of([1.0, 0.0], [1.0, 1.0])
    first, second, third = (balancing.shared(torch.ones(2), gram) for gram in (opposing, agreeing, agreeing))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(third, torch.ones(2))


OVERFLOWS = [
    (torch.tensor([4.0, 1.0]), torch.tensor([[math.inf, 1.0], [1.0, 4.0]])),
    (torch.tensor([4.0, 1.0]), torch.tensor([[9.0, math.nan], [math.nan, math.inf]])),
    (torch.tensor([math.inf, 1.0]), torch.tensor([[9.0, 1.0], [1.0, 4.0]])),
]


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=["gradient", "both gradients", "loss"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", ["gradnorm", "pcgrad", "upgrad", "imtl_g"])
def test_a_step_that_overflows_leaves_no_trace(name, every, overflow):
    """In half precision one of some thousand steps overflows, and the scaler leaves it out."""
    if issubclass(METHODS[name], TorchJD):
        pytest.importorskip("torchjd", reason="the extra `balancing` is not installed")
    balancings = [make_balancing({"name": name, "every": every}, NAMES) for _ in range(2)]
    gram = gram_of([3.0, 0.0], [-1.0, 2.0])
    for step in range(6):
        found = [(factors := b(LOSSES, gram), b.shared(factors, gram)) for b in balancings]
        torch.testing.assert_close(found[0], found[1])
        assert all(x.isfinite().all() for x in found[0])
        if step == 2:
            balancings[0].shared(balancings[0](*overflow), overflow[1])
            balancings[0].step -= 1


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=["gradient", "both gradients", "loss"])
def test_gradnorm_begins_after_a_first_step_that_overflows(overflow):
    balancings = [make_balancing("gradnorm", NAMES) for _ in range(2)]
    balancings[0](*overflow)
    gram = gram_of([3.0, 0.0], [-1.0, 2.0])
    for _ in range(3):
        torch.testing.assert_close(balancings[0](LOSSES, gram), balancings[1](LOSSES, gram))


def test_dynamic_weight_average_leaves_a_loss_that_overflows_out_of_its_means():
    balancings = [make_balancing("dwa", NAMES) for _ in range(2)]
    for losses in ([8.0, 1.0], [5.0, 3.0]):
        for balancing in balancings:
            balancing(torch.tensor(losses))
        balancings[0](torch.tensor([math.inf, math.inf]))
        for balancing in balancings:
            balancing.end_epoch()
    assert balancings[1](LOSSES).tolist() != [1.0, 1.0]
    torch.testing.assert_close(balancings[0](LOSSES), balancings[1](LOSSES))


@pytest.mark.parametrize("name", ["gradnorm", "pcgrad"])
def test_gradients_are_asked_for_only_where_they_are_used(name):
    balancing, asked = make_balancing({"name": name, "every": 3}, NAMES), []
    for _ in range(7):
        asked.append(balancing.wants_gradients())
        gram = gram_of([1.0, 0.0], [-1.0, 1.0]) if asked[-1] else None
        balancing.shared(balancing(LOSSES, gram), gram)
    assert asked == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Of (2, 0) and (0, 1) the shortest convex combination is a with a * 4 = (1 - a) * 1: a = 1/5; twice that.
        ("mgda", [0.4, 1.6]),
        # Neither opposes the other, so UPGrad is their mean.
        ("upgrad", [1.0, 1.0]),
        # Equal projections on both directions: a * 2 = (1 - a) * 1.
        ("imtl_g", [2 / 3, 4 / 3]),
        # Orthogonal already, so both are shrunk to the smaller one's size: a / b = 1/2.
        ("aligned_mtl", [2 / 3, 4 / 3]),
    ],
)
def test_torchjd_methods_on_orthogonal_gradients(name, expected):
    pytest.importorskip("torchjd", reason="the extra `balancing` is not installed")
    factors = make_balancing(name, NAMES).shared(torch.ones(2), gram_of([2.0, 0.0], [0.0, 1.0]))
    torch.testing.assert_close(factors, torch.tensor(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], TorchJD)])
@pytest.mark.parametrize("gradients", [([1.0, 0.0], [-1.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_torchjd_methods_are_finite_where_gradients_cancel_or_vanish(name, gradients):
    pytest.importorskip("torchjd", reason="the extra `balancing` is not installed")
    factors = make_balancing(name, NAMES).shared(torch.ones(2), gram_of(*gradients))
    assert factors.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_state_goes_through_a_checkpoint(name):
    if issubclass(METHODS[name], TorchJD):
        pytest.importorskip("torchjd", reason="the extra `balancing` is not installed")
    first, second = make_balancing(name, NAMES), make_balancing(name, NAMES)
    gram = gram_of([3.0, 0.0], [-1.0, 1.0])
    for _ in range(3):
        first.shared(first(LOSSES, gram), gram)
        first.end_epoch()
    second.load_state_dict(first.state_dict())
    results = [b.shared(b(LOSSES * 0.5, gram), gram) for b in (first, second)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("spec", "weights", "words"),
    [
        ("uncertain", None, "no method 'uncertain'"),
        ({"name": "dwa", "alpha": 1.0}, None, "'dwa' does not take alpha"),
        ({"name": "dwa", "temperature": 0.0}, None, "must be positive"),
        ({"name": "gradnorm", "every": 0}, None, "`every`.*at least 1, got 0"),
        ({"name": "pcgrad", "every": -1}, None, "`every`.*at least 1, got -1"),
        ("fixed", {"c": 1.0}, "some of a, b"),
        ("fixed", {"a": -1.0}, "positive"),
    ],
)
def test_mistakes_are_named(spec, weights, words):
    with pytest.raises(ValueError, match=words):
        make_balancing(spec, NAMES, weights)


def test_carried_gradients_are_those_of_the_weighted_sum():
    torch.manual_seed(0)
    shared, head, idle = (torch.randn(3, 3, requires_grad=True) for _ in range(3))
    x = torch.randn(2, 3)

    def losses() -> list[torch.Tensor]:
        return [(x @ shared).square().mean(), (x @ shared @ head).abs().mean()]

    parameters = [shared, head, idle]
    gradients = [gradients_of(loss, parameters, scale) for loss, scale in zip(losses(), (1.0, 1024.0), strict=True)]
    factors = torch.tensor([2.0, 0.5])
    value = carry(torch.tensor(7.0), parameters, combined(gradients, [[f] * 3 for f in factors]))
    (value * 3).backward()  # as accumulation and mixed precision scale it
    assert value.item() == 7
    assert idle.grad is None
    expected = torch.autograd.grad(3 * (2 * losses()[0] + 0.5 * losses()[1]), [shared, head])
    torch.testing.assert_close([shared.grad, head.grad], list(expected))
    flat = [torch.cat([torch.zeros(9) if g is None else g.flatten() for g in row]) for row in gradients]
    torch.testing.assert_close(gram_matrix(gradients), torch.stack(flat) @ torch.stack(flat).T)
