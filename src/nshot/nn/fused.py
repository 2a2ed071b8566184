"""The CPU's fast path: a network of nodes, run forward and backward by fused kernels instead of autograd's graph.

A node sums batch-normalised convolutions, earlier values and 3x3 averages of earlier values. Autograd would pass over
memory once for each of these operations and each of their gradients; here a node costs one pass for the statistics and
one for all the rest, forward as backward. Convolutions stay torch's own. It is the plain path's result, to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused_convs import convolve, images, pointwise
from .kernels import EPS, call, library, numbers, pointer, pointers, recorded


class Signal:
    """A tensor (N, C, H, W), channels-last, and the gradients that reach it, each to be multiplied by its scale."""

    __slots__ = ("grads", "scales", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.grads: list[Tensor] = []
        self.scales: list[float] = []

    def receive(self, grad: Tensor, scale: float = 1.0) -> None:
        self.grads.append(grad)
        self.scales.append(scale)


class Convolved(Signal):
    """A convolution's output, and the statistics of its channels."""

    __slots__ = ("mean", "rstd")

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        n, c, h, w = tensor.shape
        self.mean, self.rstd = torch.empty(2, c, dtype=torch.float32, device=tensor.device).unbind()
        call("moments", tensor.dtype, pointer(tensor), n * h * w, c, EPS, pointer(self.mean), pointer(self.rstd))


class Node:
    """A sum, as float32 ``value``, as the ``relu`` that convolutions read, or both; ``pooled``: the gradients of its
    3x3 averages and their scales."""

    __slots__ = ("pooled", "relu", "value")

    def __init__(self, value: Tensor | None, relu: Tensor | None) -> None:
        self.value = None if value is None else Signal(value)
        self.relu = None if relu is None else Signal(relu)
        self.pooled: list[tuple[Tensor, float]] = []


def usable(x: Tensor) -> bool:
    """Whether the fast path can run on this input (N, 3, H, W): on a CPU, in float32, with kernels, of sides that both
    reductions halve, of at least one image, and not while someone records torch's operations, who would see none."""
    return (
        not recorded(x)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not x.requires_grad
        and len(x) > 0
        and x.shape[-1] % 4 == x.shape[-2] % 4 == 0
        and library() is not None
    )


class Scales(NamedTuple):
    """What the terms of a node's sum are multiplied by."""

    convolved: list[float]
    plain: list[float]
    pooled: list[float]


Told = Callable[[Tensor, Tensor], None]
"""Takes a node's gradient (N, C, H, W), and the sums over pixels of it times each normalised convolution (K, C)."""


class Tape:
    """Runs operations forward and, where ``train``, records how to run them backward.

    Args:
        train: whether gradients will be asked for.

    ``dtype`` is what convolutions read and write: float32, or under autocast its type. Statistics and sums are float32.
    """

    def __init__(self, train: bool) -> None:
        self.train = train
        self.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        self.weights: dict[Tensor, Tensor] = {}  # parameter to what convolutions read
        self.grads: dict[Tensor, Tensor] = {}
        self._back: list[Callable[[], None]] = []

    def conv(self, x: Signal, weight: Tensor, stride: int = 1, *, grad_x: bool = True, norm: bool = True) -> Any:
        """Convolution without bias, padded to keep its size: a `Convolved`, or without ``norm`` a float32 `Signal`."""
        if weight not in self.weights:
            self.weights[weight] = weight.detach().to(self.dtype)
        read = self.weights[weight]
        y, gradients = (
            pointwise(x.tensor, read) if weight.shape[-1] == stride == 1 else convolve(x.tensor, read, stride)
        )
        out = Convolved(y) if norm else Signal(y.float())

        def back() -> None:
            if not out.grads:
                return  # the output does not depend on it
            (g,) = out.grads
            gx, gw = gradients(g.to(self.dtype), grad_x, weight.requires_grad)
            if gw is not None:
                self.grads[weight] = self.grads[weight] + gw if weight in self.grads else gw
            if gx is not None:
                x.receive(gx)

        if self.train:
            self._back.append(back)
        return out

    def node(
        self,
        convolved: Sequence[Convolved] = (),
        plain: Sequence[Signal] = (),
        pooled: Sequence[Node] = (),
        *,
        value: bool = True,
        relu: bool = True,
        scales: Scales | None = None,
        told: Told | None = None,
    ) -> Node:
        """The sum of normalised convolutions, plain values, and 3x3 averages of nodes' values; at least one of them.

        Args:
            convolved: what is normalised.
            plain: values.
            pooled: nodes whose value is averaged.
            value: whether the sum is asked for.
            relu: whether its ReLU is.
            scales: what the terms are multiplied by, those of each kind; None: nothing.
            told: is given the sum's gradient.
        """
        scales = scales or Scales([1.0] * len(convolved), [1.0] * len(plain), [1.0] * len(pooled))
        averaged = [p.value.tensor for p in pooled if p.value is not None]
        like = [*(s.tensor for s in convolved), *(s.tensor for s in plain), *averaged][0]
        n, c, h, w = like.shape
        if convolved and n * h * w == 1:  # as torch says it, where the plain path runs
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {like.shape}")
        summed = torch.empty_like(like, dtype=torch.float32) if value else None
        positive = torch.empty_like(like, dtype=self.dtype) if relu else None
        node = Node(summed, positive)
        ys, means, rstds = _columns(convolved)
        xs, ps = pointers([s.tensor for s in plain]), pointers(averaged)
        call(
            "mix", self.dtype, pointer(summed), pointer(positive), n, h, w, c,
            len(convolved), ys, means, rstds, numbers(scales.convolved), len(plain), xs, numbers(scales.plain),
            len(pooled), ps, numbers(scales.pooled),
        )  # fmt: skip
        if self.train:
            terms = convolved, plain, pooled, scales
            self._back.append(lambda: self._node_back(node, *terms, (ys, means, rstds), (n, h, w, c), told))
        return node

    def _node_back(
        self,
        node: Node,
        convolved: Sequence[Convolved],
        plain: Sequence[Signal],
        pooled: Sequence[Node],
        scales: "Scales",
        columns: tuple[Any, Any, Any],
        shape: tuple[int, int, int, int],
        told: "Told | None",
    ) -> None:
        n, h, w, c = shape
        own = node.value.grads if node.value else []
        conv = node.relu.grads if node.relu else []
        count = len(own) + len(conv) + len(node.pooled)
        if not count:
            return
        alone = len(own) == count == 1 and node.value is not None and node.value.scales == [1.0]
        g = own[0] if alone else images((n, c, h, w), torch.float32)
        sums = torch.empty(1 + len(convolved), c, dtype=torch.float32, device="cpu")
        if convolved or not alone:
            call(
                "gather", self.dtype, pointer(None if alone else g), pointer(node.relu.tensor if node.relu else None),
                n, h, w, c, len(conv), pointers(conv),
                len(own), pointers(own), numbers(node.value.scales if node.value else []),
                len(node.pooled), pointers([g for g, _ in node.pooled]), numbers([scale for _, scale in node.pooled]),
                len(convolved), *columns, *map(pointer, (sums[0], sums[1:])),
            )  # fmt: skip
        if convolved:
            grads = [torch.empty_like(y.tensor) for y in convolved]
            call(
                "norm_backward", self.dtype, pointers(grads), pointer(g), n * h * w, c,
                len(convolved), *columns, numbers(scales.convolved), *map(pointer, (sums[0], sums[1:])),
            )  # fmt: skip
            for y, grad in zip(convolved, grads, strict=True):
                y.receive(grad)
        for x, scale in zip(plain, scales.plain, strict=True):
            x.receive(g, scale)
        for p, scale in zip(pooled, scales.pooled, strict=True):
            p.pooled.append((g, scale))
        if told is not None:
            told(g, sums[1:])

    def relu(self, node: Node) -> Signal:
        """What convolutions of the node read; computed now where it was not asked for with the node."""
        if node.relu is None:
            assert node.value is not None
            node.relu = Signal(node.value.tensor.clamp_min(0).to(self.dtype))
        return node.relu

    def half(self, x: Signal) -> Signal:
        """Average of 2x2 pixels."""
        n, c, h, w = x.tensor.shape
        shape = (n, h // 2, w // 2, c)
        out = Signal(images((n, c, h // 2, w // 2), self.dtype))
        call("half", self.dtype, pointer(out.tensor), pointer(x.tensor), *shape)

        def back() -> None:
            if not out.grads:
                return
            (g,) = out.grads
            gx = images((n, c, h, w), torch.float32)
            call("half_backward", self.dtype, pointer(gx), pointer(g), *shape)
            x.receive(gx)

        if self.train:
            self._back.append(back)
        return out

    def images(self, x: Tensor) -> Signal:
        """What the first convolution reads."""
        return Signal(x.to(self.dtype).contiguous(memory_format=torch.channels_last))

    def normed(self, x: Node) -> Node:
        """ReLU of a value that is normalised without a convolution."""
        assert x.value is not None
        value = x.value
        y = Convolved(value.tensor.to(self.dtype))
        if self.train:
            self._back.append(lambda: value.receive(y.grads[0].float()) if y.grads else None)
        return self.node([y], value=False)

    def backward(self, out: Signal, g: Tensor) -> list[Tensor | None]:
        """Gradients of the weights, in the order of their first use, from that of the output."""
        if not self._back:
            raise RuntimeError("the fast path keeps nothing after a backward: run forward again")
        out.receive(g)
        while self._back:
            self._back.pop()()
        return [self.grads.pop(weight, None) for weight in self.weights]  # popped: autograd need not copy


def pooled(program: Callable[[Tape], Signal]) -> Tensor:
    """Mean over pixels (N, C), float32, of what ``program`` computes; autograd gets the gradients of its weights."""
    tape = Tape(torch.is_grad_enabled())
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        last = program(tape)
        out = last.tensor.mean((2, 3), dtype=torch.float32)
    return _Replay.apply(tape, last, out, *tape.weights) if tape.train else out


class _Replay(torch.autograd.Function):
    """Hands a tape's gradients to autograd."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, last: Signal, out: Tensor, *weights: Tensor) -> Tensor:
        ctx.tape, ctx.last = tape, last
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        like = ctx.last.tensor
        spread = (g / (like.shape[2] * like.shape[3])).to(like.dtype)[:, :, None, None].expand_as(like)
        grads = ctx.tape.backward(ctx.last, spread.contiguous(memory_format=torch.channels_last))
        return None, None, None, *grads


def _columns(convolved: Sequence[Convolved]) -> tuple[Any, Any, Any]:
    return (
        pointers([y.tensor for y in convolved]),
        pointers([y.mean for y in convolved]),
        pointers([y.rstd for y in convolved]),
    )
