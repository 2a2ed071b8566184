"""CaLR: eqs. 3 and 4 against the paper's golden figures, closed forms and a real torch loop."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nshot import ComplexityAwareLR, SeparatedMomentum
from nshot.dynamic.calr import decay_ratio, learning_rate

unhurried = settings(deadline=None)
G = ["log", "linear", "exp"]
C_MIN, C_MAX = 72_752, 1_524_272  # NAS-Bench-201
NB201 = (C_MIN, C_MAX)


def all_nb201_params() -> list[int]:
    """Parameters of the 15,625 subnets, by counting 1x1 and 3x3 convolutions on six edges."""
    edge = [0, 0, 26_880, 241_920, 0]
    return [C_MIN + sum(ops) for ops in itertools.product(edge, repeat=6)]


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    low = draw(st.integers(1, 10**7))
    return low, draw(st.integers(low + 1 + low // 100, 10**8))


gammas = st.floats(1, 20)
fractions = st.floats(0, 1)


def between(bounds: tuple[int, int], fraction: float) -> float:
    return min(max(bounds[0] + fraction * (bounds[1] - bounds[0]), bounds[0]), bounds[1])


# Eq. 4


@pytest.mark.parametrize("c", [C_MIN, 100_000, 314_672, 1_000_000, C_MAX])
def test_golden_omega_and_tau(c: int) -> None:
    assert decay_ratio(c, NB201, 4) == pytest.approx(-1.2327 * math.log(c) + 17.799, abs=1e-3)


def test_golden_mean_decay_ratio_of_nasbench201() -> None:
    params = all_nb201_params()
    assert (min(params), max(params), len(params)) == (C_MIN, C_MAX, 15_625)
    gamma = [decay_ratio(c, NB201, 4) for c in params]
    assert round(sum(gamma) / len(gamma), 2) == 2.18
    assert round(100 * sum(g > 1 for g in gamma) / len(gamma)) == 97


@pytest.mark.parametrize("g", G)
@unhurried
@given(bounds=ranges(), gamma=gammas)
def test_ends_of_the_range(g: str, bounds: tuple[int, int], gamma: float) -> None:
    assert decay_ratio(bounds[0], bounds, gamma, g) == pytest.approx(gamma, rel=1e-6)
    assert decay_ratio(bounds[1], bounds, gamma, g) == pytest.approx(1 / gamma, rel=1e-6)


@pytest.mark.parametrize("g", G)
@unhurried
@given(bounds=ranges(), gamma=gammas, a=fractions, b=fractions)
def test_larger_subnets_never_decay_faster(g: str, bounds: tuple[int, int], gamma: float, a: float, b: float) -> None:
    small, large = (decay_ratio(between(bounds, f), bounds, gamma, g) for f in sorted((a, b)))
    assert small >= large - 1e-9 * gamma
    if abs(a - b) > 0.01 and gamma > 1.01:
        assert small > large


@pytest.mark.parametrize("g", G)
@unhurried
@given(bounds=ranges(), gamma=gammas, fraction=fractions)
def test_unit_of_complexity_is_irrelevant(g: str, bounds: tuple[int, int], gamma: float, fraction: float) -> None:
    c = between(bounds, fraction)
    low, high = bounds[0] / 1e6, bounds[1] / 1e6
    in_millions = decay_ratio(min(max(c / 1e6, low), high), (low, high), gamma, g)
    assert in_millions == pytest.approx(decay_ratio(c, bounds, gamma, g), rel=1e-6)


def test_g_of_the_middle() -> None:
    """Each g puts the mean of γ' and 1/γ' at its own kind of middle."""
    mean = (4 + 1 / 4) / 2
    assert decay_ratio(math.sqrt(2 * 50), (2, 50), 4, "log") == pytest.approx(mean)
    assert decay_ratio(26, (2, 50), 4, "linear") == pytest.approx(mean)
    middle = 50 * math.log((math.exp(2 / 50) + math.exp(1)) / 2)
    assert decay_ratio(middle, (2, 50), 4, "exp") == pytest.approx(mean)


# Eq. 3


@unhurried
@given(lr0=st.floats(1e-6, 10), total=st.integers(1, 10**6), gamma=st.floats(0.05, 20))
def test_lr_starts_at_lr0_and_ends_at_zero(lr0: float, total: int, gamma: float) -> None:
    assert learning_rate(lr0, 0, total, gamma) == lr0
    assert learning_rate(lr0, total, total, gamma) == 0
    for step in (-1, total + 1):
        with pytest.raises(ValueError, match=f"step {step}: must be from 0 to total_steps {total}"):
            learning_rate(lr0, step, total, gamma)


# The scheduler


def two_groups() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    return model, torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def calr_of(optimizer: torch.optim.Optimizer, total_steps: int = 10) -> ComplexityAwareLR:
    return ComplexityAwareLR(optimizer, total_steps=total_steps, complexity_range=NB201, gamma=4)


def gamma_by_hand(c: float) -> float:
    """Eq. 4 as a straight line in log C through its two ends."""
    share = (math.log(c) - math.log(C_MIN)) / (math.log(C_MAX) - math.log(C_MIN))
    return 4 * (1 - share) + share / 4


COMPLEXITIES = [C_MIN, C_MAX, 99_632, 600_000, 314_672, 1_282_352, 72_752, 900_000, 100_000, 1_524_272]


@pytest.mark.parametrize("separated", [False, True])
def test_torch_loop(separated: bool) -> None:
    model, optimizer = two_groups()
    if separated:
        optimizer = SeparatedMomentum(optimizer, clusters=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calr = calr_of(optimizer)
        assert isinstance(calr, torch.optim.lr_scheduler.LRScheduler)
        for k, complexity in enumerate(COMPLEXITIES):
            weight = model[0].weight.detach().clone()
            model(torch.ones(2, 3)).sum().backward()
            calr.step(complexity)
            optimizer.step(**({"cluster": k % 3} if separated else {}))
            optimizer.zero_grad()
            expected = [lr0 * (1 - k / 10) ** gamma_by_hand(complexity) for lr0 in (0.5, 0.1)]
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected, rel=1e-9)
            assert calr.get_last_lr() == pytest.approx(expected, rel=1e-9)
            assert not torch.equal(weight, model[0].weight)


def test_a_parameter_group_trains_at_the_rate_that_was_set() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    calr = calr_of(optimizer)
    for complexity in (C_MIN, C_MAX):
        weight.grad = torch.ones(1)
        calr.step(complexity)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.5 * (1 + 0.9**0.25))


def gamma_of(g: str, c: float) -> float:
    """Eq. 4 as a straight line in g(C) through its two ends, γ' = 4."""
    scale = {"log": math.log, "linear": float, "exp": lambda x: math.exp(x / C_MAX)}[g]
    share = (scale(c) - scale(C_MIN)) / (scale(C_MAX) - scale(C_MIN))
    return 4 * (1 - share) + share / 4


@pytest.mark.parametrize("g", G)
def test_the_scheduler_decays_by_its_g(g: str) -> None:
    optimizer = two_groups()[1]
    calr = ComplexityAwareLR(optimizer, total_steps=10, complexity_range=NB201, g=g)
    for k, complexity in enumerate(COMPLEXITIES):
        calr.step(complexity)
        assert calr.decay == pytest.approx(gamma_of(g, complexity), rel=1e-9)
        assert calr.get_last_lr() == pytest.approx([lr0 * (1 - k / 10) ** calr.decay for lr0 in (0.5, 0.1)], rel=1e-9)


def test_options_left_out_are_the_papers() -> None:
    """γ' = 4 by the logarithm."""
    calr = ComplexityAwareLR(two_groups()[1], total_steps=4, complexity_range=NB201)
    for complexity in (C_MIN, math.sqrt(C_MIN * C_MAX)):
        calr.step(complexity)
        assert calr.decay == pytest.approx(4 if complexity == C_MIN else (4 + 1 / 4) / 2)


def test_before_the_first_subnet_rates_are_the_optimizers() -> None:
    calr = calr_of(two_groups()[1])
    assert calr.get_last_lr() == [0.5, 0.1]
    assert math.isnan(calr.decay)


def test_a_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    """As torch.compile and captured optimizers need it."""
    rate = torch.tensor(0.5, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=rate)
    calr = calr_of(optimizer)
    for k, complexity in enumerate(COMPLEXITIES):
        calr.step(complexity)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.5 * (1 - k / 10) ** gamma_by_hand(complexity), rel=1e-9)


def test_one_step_is_a_training() -> None:
    calr = calr_of(two_groups()[1], total_steps=1)
    calr.step(C_MAX)
    assert calr.get_last_lr() == [0.5, 0.1]
    calr.step(C_MAX)
    assert calr.get_last_lr() == [0, 0]


def test_a_group_that_came_later_has_no_rate_to_begin_with() -> None:
    _, optimizer = two_groups()
    calr = calr_of(optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="zip"):
        calr.step(C_MIN)


def test_state_dict_continues() -> None:
    def rates(calr: ComplexityAwareLR, complexities: list[int]) -> list[list[float]]:
        out = []
        for complexity in complexities:
            calr.step(complexity)
            out.append([group["lr"] for group in calr.optimizer.param_groups])
        return out

    whole = rates(calr_of(two_groups()[1]), COMPLEXITIES)
    first = calr_of(two_groups()[1])
    rates(first, COMPLEXITIES[:4])
    second = calr_of(two_groups()[1])
    second.load_state_dict(first.state_dict())
    assert rates(second, COMPLEXITIES[4:]) == whole[4:]


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma 0: .* must be at least 1$"),
        ({"gamma": -1}, "gamma -1: .* must be at least 1$"),
        ({"gamma": 0.25}, "gamma 0.25.*did you mean 4"),
        ({"gamma": math.nan}, "gamma nan: .* must be at least 1$"),
        ({"gamma": math.inf}, "gamma inf"),
        ({"g": "sqrt"}, "'sqrt': choose one of log, linear, exp$"),
        ({"complexity_range": (C_MAX, C_MIN)}, "1524272 to 72752"),
        ({"complexity_range": (5, 5)}, "5 to 5: needs 0 < Cmin < Cmax"),
        (
            {"complexity_range": (1e15, math.nextafter(1e15, 2e15))},
            r"00\.1: too narrow for g 'log', which must rise from one to the other$",
        ),
        ({"complexity_range": (0, 5)}, "0 to 5"),
        ({"complexity_range": (1, math.inf)}, "1 to inf"),
        ({"total_steps": 0}, "total_steps 0"),
    ],
)
def test_meaningless_options(options: dict, message: str) -> None:
    options = {"total_steps": 10, "complexity_range": NB201} | options
    with pytest.raises(ValueError, match=message):
        ComplexityAwareLR(two_groups()[1], **options)


@pytest.mark.parametrize("complexity", [C_MIN - 1, C_MAX + 1, 1.2, math.nan])
def test_complexity_outside_the_range(complexity: float) -> None:
    optimizer = two_groups()[1]
    calr = calr_of(optimizer)
    with pytest.raises(ValueError, match=f"complexity {complexity}.*72752 to 1524272"):
        calr.step(complexity)
    calr.step(C_MIN)  # the refused call was not a step
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]


def test_step_past_the_total() -> None:
    calr = calr_of(two_groups()[1], total_steps=2)
    for _ in range(3):  # k = 0, 1 and the zero at T
        calr.step(C_MIN)
    assert calr.get_last_lr() == [0, 0]
    with pytest.raises(ValueError, match="step 3 is past total_steps 2"):
        calr.step(C_MIN)


def test_step_without_complexity() -> None:
    with pytest.raises(TypeError, match=r"^step.. needs the complexity of the subnet to train"):
        calr_of(two_groups()[1]).step()
