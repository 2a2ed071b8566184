"""CaLR, the complexity-aware learning rate: eqs. 3 and 4 of the paper, eqs. i to iii of its supplement."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# g of eq. i, of the complexity C and the largest complexity. Only exp depends on C's scale: it takes C / Cmax, so that
# its argument lies in (0, 1] whatever C's unit is; log and linear give the same γ for any scale.
G: dict[str, Callable[[float, float], float]] = {
    "log": lambda c, c_max: math.log(c),
    "linear": lambda c, c_max: c,
    "exp": lambda c, c_max: math.exp(c / c_max),
}


def decay_ratio(complexity: float, complexity_range: Sequence[float], gamma: float, g: str = "log") -> float:
    """γ(α) of eq. 4: from γ' at the smallest complexity down to 1/γ' at the largest.

    Args:
        complexity: C(α), any unit (parameters, multiply-accumulates), inside the range.
        complexity_range: (Cmin, Cmax) of the search space.
        gamma: γ' >= 1, the largest decay ratio; the smallest is 1/γ'.
        g: ``log`` (the paper's choice), ``linear`` or ``exp``.

    Raises:
        ValueError: for a complexity outside the range, or as `check_decay`.
    """
    low, high = complexity_range
    if not low <= complexity <= high:
        raise ValueError(f"complexity {complexity} is outside the range {low} to {high}: both must use one measure")
    check_decay(complexity_range, gamma, g)
    gamma_min = 1 / gamma
    omega = -(gamma - gamma_min) / (G[g](high, high) - G[g](low, high))  # eq. ii
    tau = gamma_min - omega * G[g](high, high)  # eq. iii
    return omega * G[g](complexity, high) + tau  # eq. i


def learning_rate(lr0: float, step: int, total_steps: int, decay: float) -> float:
    """lr(t, α) of eq. 3: ``lr0 * (1 - t / T) ** γ(α)``, t from 0 to T."""
    if not 0 <= step <= total_steps:
        raise ValueError(f"step {step}: must be from 0 to total_steps {total_steps}")
    return lr0 * (1 - step / total_steps) ** decay


def check_decay(complexity_range: Sequence[float], gamma: float, g: str) -> None:
    """Raises ValueError where eq. 4 has no meaning."""
    low, high = complexity_range
    if not 0 < low < high < math.inf:
        raise ValueError(f"complexity range {low} to {high}: needs 0 < Cmin < Cmax")
    if not (gamma >= 1 and math.isfinite(gamma)):
        hint = f", did you mean {1 / gamma:g}?" if 0 < gamma < 1 else ""
        raise ValueError(f"gamma {gamma:g}: γ' is the largest decay ratio and must be at least 1{hint}")
    if g not in G:
        raise ValueError(f"unknown g {g!r}: choose one of {', '.join(G)}")
    if not G[g](low, high) < G[g](high, high):
        raise ValueError(
            f"complexity range {low} to {high}: too narrow for g {g!r}, which must rise from one to the other"
        )


class ComplexityAwareLR(LRScheduler):
    """Sets each step's learning rate from the complexity of the subnet that the step trains (eqs. 3 and 4).

    The k-th call of ``step(complexity)`` (k from 0) sets the learning rate of training step k, so it comes *before*
    ``optimizer.step()``. The rate is a closed form of k: resuming needs ``state_dict`` (or ``last_epoch``) alone.

    Args:
        optimizer: any torch optimizer; every parameter group decays from its own ``lr``.
        total_steps: T of eq. 3.
        complexity_range: (Cmin, Cmax) of the search space.
        gamma: γ', 4 on NAS-Bench-201 and 3 on MobileNet in the paper.
        g: ``log``, ``linear`` or ``exp``.

    Raises:
        ValueError: for a range, γ' or g without meaning; from ``step`` for a complexity outside the range or a step
            past ``total_steps``.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> calr = nshot.ComplexityAwareLR(optimizer, total_steps=100, complexity_range=(10, 1000), gamma=4)
        >>> calr.step(1000), calr.step(10)  # steps 0 and 1: of the largest subnet, and of the smallest
        (None, None)
        >>> round(calr.decay, 6), round(optimizer.param_groups[0]["lr"], 6)  # γ = 4: 0.1 (1 - 1/100)^4
        (4.0, 0.09606)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        complexity_range: Sequence[float],
        gamma: float = 4.0,
        g: str = "log",
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps {total_steps}: must be at least 1")
        check_decay(complexity_range, gamma, g)
        self.total_steps = total_steps
        self.complexity_range = tuple(complexity_range)
        self.gamma = gamma
        self.g = g
        self.decay = math.nan  # γ of the subnet of the latest step
        super().__init__(optimizer)

    def _initial_step(self) -> None:
        # torch's base class sets the first learning rate here; ours waits for the first subnet.
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, complexity: float | None = None) -> None:
        """Sets the learning rate of the next training step, which trains a subnet of this complexity."""
        if complexity is None:
            raise TypeError("step() needs the complexity of the subnet to train: calr.step(space.params(subnet))")
        if self.last_epoch + 1 > self.total_steps:
            raise ValueError(f"step {self.last_epoch + 1} is past total_steps {self.total_steps}")
        self.decay = decay_ratio(complexity, self.complexity_range, self.gamma, self.g)
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # where the optimizer is captured or compiled, the tensor must stay the same
            else:
                group["lr"] = lr

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of the current step, one a parameter group."""
        return [learning_rate(float(lr0), self.last_epoch, self.total_steps, self.decay) for lr0 in self.base_lrs]
