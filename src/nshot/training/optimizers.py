"""The optimizers that supernets are trained with: torch's own, and for SGD on the CPU the same update in one pass.

What is not in torch's own is what the released code and the paper differ in: weights off the path (``idle``).
``drift``: their gradient is zero, so momentum and weight decay still move them, as in the released code. ``rest``:
they keep still, and so do the slices off the path of weights that subnets share in part (`RestingSlices`).

SGD decays all weights, as the released code. AdamW, the optimizer of transformers' recipes, decays what they decay
(``decayed``): matrices and kernels, not norms, biases, class tokens and positions, as timm, DeiT and AutoFormer.
"""

import ctypes
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nshot.errors import UserError
from nshot.nn.kernels import library, pointers, run
from nshot.nn.regions import Region, fill
from nshot.spaces import Subnet, Supernet

OptimizerName = Literal["sgd", "adamw"]
Idle = Literal["drift", "rest"]
Decayed = Literal["matrices", "all"]
AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


def check_optimizer(name: OptimizerName, momentum: float, nesterov: bool, decayed: Decayed) -> None:
    """Raises UserError for an option that the optimizer has not, or a momentum that Nesterov's cannot be of."""
    if name != "sgd" and momentum != 0.9:
        raise UserError(f"momentum {momentum} has no effect with --optimizer {name}")
    if name != "sgd" and not nesterov:
        raise UserError(f"nesterov {nesterov} has no effect with --optimizer {name}: leave it out, or say --nesterov")
    if name == "sgd" and decayed != "matrices":
        raise UserError(f"decayed {decayed} has no effect with --optimizer {name}, which decays all weights")
    if name == "sgd" and nesterov and momentum == 0:
        raise UserError("momentum 0 with nesterov: add --no-nesterov")


def as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration's values, with those of the optimizer that an earlier version did not know or heed.

    There AdamW decayed all weights, and took a ``nesterov`` that did nothing.
    """
    if values.get("optimizer") != "adamw":
        return dict(values)
    return {"decayed": "all", **values, "nesterov": True}


def sgd_or_adamw(
    name: OptimizerName,
    module: nn.Module,
    *,
    fast: bool,
    momentum: float,
    nesterov: bool,
    decayed: Decayed,
    **shared: Any,
) -> Optimizer:
    """`sgd` or `adamw` of a module's weights; ``shared`` are the options of both: idle, clip, lr, weight_decay."""
    if name == "adamw":
        return adamw(module, decayed=decayed, **shared)
    return sgd(module.parameters(), fast=fast, momentum=momentum, nesterov=nesterov, **shared)


def sgd(parameters: Iterable[Tensor], *, idle: Idle, clip: float | None, fast: bool, **options: Any) -> SGD:
    """torch's SGD that clips gradients to the norm ``clip`` (None: not), and does with idle weights what it is told.

    Args:
        parameters: the weights. In each step those without gradient are idle.
        idle: see above.
        clip: largest norm of the gradient of all weights.
        fast: use `FusedSGD` where it can run.
        options: lr, momentum, weight_decay and nesterov of torch's SGD.
    """
    weights = list(parameters)
    if fast and library() is not None and all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights):
        return FusedSGD(weights, idle=idle, clip=clip, **options)
    optimizer = _prepared(SGD(weights, **options), weights, idle, clip)
    if options.get("nesterov") and not options.get("weight_decay"):

        def one_by_one(*_: Any) -> None:
            # Torch's batched step on a GPU, without a decay to copy it for, would leave g + momentum v as gradient.
            for group in optimizer.param_groups:  # also those of a checkpoint
                group["foreach"] = False

        optimizer.register_step_pre_hook(one_by_one)
    return optimizer


def adamw(
    module: nn.Module, *, idle: Idle, clip: float | None, lr: float, weight_decay: float, decayed: Decayed = "matrices"
) -> AdamW:
    """torch's AdamW of a module's weights, with clipping and idle weights as `sgd` has them.

    ``decayed``: ``matrices``, all but `undecayed` (a parameter group of their own, the second), or ``all``.
    """
    weights: list[Tensor] = list(module.parameters())
    exempt = undecayed(module) if decayed == "matrices" else set()
    groups = [[w for w in weights if (w in exempt) == apart] for apart in (False, True)]
    rates = (weight_decay, 0.0)
    described = [{"params": group, "weight_decay": r} for group, r in zip(groups, rates, strict=True) if group]
    return _prepared(AdamW(described, lr=lr, weight_decay=weight_decay), weights, idle, clip)


def undecayed(module: nn.Module) -> set[Tensor]:
    """The weights that transformers' recipes do not decay: of at most one dimension (norms, biases), those whose name
    ends in ``bias``, and those that the module, or one inside, names by a method ``no_weight_decay()``, as timm's do.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    exempt = {name for name, weight in named.items() if weight.dim() <= 1 or name.rpartition(".")[2] == "bias"}
    for prefix, inside in module.named_modules():
        if callable(names := getattr(inside, "no_weight_decay", None)):
            exempt |= {f"{prefix}.{name}" if prefix else name for name in names()}
    return {weight for name, weight in named.items() if name in exempt}


def _prepared(optimizer: AnyOptimizer, weights: list[Tensor], idle: Idle, clip: float | None) -> AnyOptimizer:
    """The optimizer, which before each step fills missing gradients with zeros (``drift``) and clips."""
    if idle == "drift":
        zeros = {weight: torch.zeros_like(weight) for weight in weights}

        def fill(*_: Any) -> None:
            missing = [w for w in zeros if w.grad is None and w.requires_grad]  # AdamW counts the steps of each
            if missing:
                torch._foreach_zero_([zeros[weight] for weight in missing])  # on a GPU torch's SGD writes into them
            for weight in missing:
                weight.grad = zeros[weight]

        optimizer.register_step_pre_hook(fill)
    if clip is not None:

        def clipped(*_: Any) -> None:
            nn.utils.clip_grad_norm_([*weights, *getattr(optimizer, "beside", [])], clip)

        optimizer.register_step_pre_hook(clipped)
    return optimizer


def clipped_by(optimizer: Optimizer) -> float:
    """What gradients are to be multiplied by after a step to be those that it took: 1 where it clipped them itself."""
    return getattr(getattr(optimizer, "base", optimizer), "clipped_by", 1.0)


def clip_with(optimizer: Optimizer, others: Iterable[Tensor]) -> None:
    """From now on the gradients of these count too in the norm that those of the optimizer's weights are clipped to."""
    setattr(getattr(optimizer, "base", optimizer), "beside", list(others))  # noqa: B010


class RestingSlices:
    """Has an optimizer leave alone, weights and state, what no path of a step uses of the weights it shares in part.

    Before each step it has to be told the step's paths by `used`. AdamW counts a weight's steps as a whole.

    Args:
        optimizer: of the supernet's weights; its own update must be elementwise.
        supernet: says by `Supernet.live` which slices a path uses.
    """

    def __init__(self, optimizer: Optimizer, supernet: Supernet) -> None:
        self._optimizer, self._supernet = optimizer, supernet
        self._weights = dict(supernet.named_parameters())
        self._live: dict[str, list[Region]] | None = None
        self._before: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        optimizer.register_step_pre_hook(self._keep)
        optimizer.register_step_post_hook(self._restore)

    def used(self, paths: Iterable[Subnet]) -> None:
        """The paths whose gradients the next step is of."""
        self._live = {}
        for path in paths:
            for name, sizes in self._supernet.live(path).items():
                self._live.setdefault(name, []).append(sizes)

    def _keep(self, *_: Any) -> None:
        if self._live is None:
            raise RuntimeError("idle slices rest: tell RestingSlices.used the step's paths before the optimizer steps")
        for name, slices in self._live.items():
            if () in slices:
                continue  # a path uses all of it
            weight = self._weights[name]
            idle = torch.ones_like(weight, dtype=torch.bool)
            for region in slices:
                fill(idle, region, False)
            if idle.any():
                values = {key: value.clone() for key, value in _values(self._optimizer, weight).items()}
                self._before.append((weight, idle, values))
        self._live = None

    def _restore(self, *_: Any) -> None:
        for weight, idle, values in self._before:
            for key, value in _values(self._optimizer, weight).items():
                old = values.get(key)  # none in the step that makes the state, which is zero where nothing was
                value.masked_fill_(idle, 0) if old is None else value.copy_(old.where(idle, value))
        self._before.clear()


def _values(optimizer: Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """The weight and what the optimizer keeps for each of its elements."""
    kept = {key: value for key, value in optimizer.state[weight].items() if isinstance(value, Tensor)}
    return {"": weight.data, **{key: value for key, value in kept.items() if value.shape == weight.shape}}


class FusedSGD(SGD):
    """torch's SGD with momentum on float32 weights in the CPU's memory; state and ``state_dict`` are SGD's own."""

    def __init__(self, parameters: Iterable[Tensor], *, idle: Idle, clip: float | None, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.idle = idle
        self.clip = clip
        self.beside: list[Tensor] = []
        """Whose gradients count in the norm besides, as `clip_with` has it."""
        self.clipped_by = 1.0
        """What the last step multiplied its gradients by, which stay as they are."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = {p: _aligned(p.grad, p) for group in self.param_groups for p in group["params"] if p.grad is not None}
        scale = self.clipped_by = self._scale([*grads.values(), *(p.grad for p in self.beside if p.grad is not None)])
        for group in self.param_groups:
            chosen = [p for p in group["params"] if self.idle == "drift" or p in grads]
            momenta, own = pointers([self._momentum(p) for p in chosen]), pointers([grads.get(p) for p in chosen])
            run(
                "sgd", len(chosen), _sizes(chosen), pointers(chosen), momenta, own, float(group["lr"]),
                float(group["momentum"]), float(group["weight_decay"]), scale, int(group["nesterov"]),
            )  # fmt: skip
        return loss

    def _scale(self, grads: list[Tensor]) -> float:
        """What clipping multiplies the gradients by."""
        if self.clip is None:
            return 1.0
        total = ctypes.c_double()
        run("square_sum", len(grads), _sizes(grads), pointers(grads), ctypes.byref(total))
        return min(1.0, self.clip / (math.sqrt(total.value) + 1e-6))  # torch's formula

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        elif state["momentum_buffer"].stride() != parameter.stride():  # another memory format, from a checkpoint
            state["momentum_buffer"] = _aligned(state["momentum_buffer"], parameter)
        return state["momentum_buffer"]


def _sizes(tensors: list[Tensor]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])


def _aligned(value: Tensor, parameter: Tensor) -> Tensor:
    """The value in the parameter's memory format."""
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter).copy_(value)
