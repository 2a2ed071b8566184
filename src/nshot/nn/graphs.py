"""CUDA graphs: work that is launched kernel by kernel is captured once on fixed memory, and replayed.

A supernet has too many subnets to capture each, but few parts: a node of a cell has one for each combination of the
options of its edges. Off by default: it has not been run on a GPU yet (``benchmarks/gpu.py`` does that).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Work = Callable[[], None]
# Makes of a forward and a backward, which read and write fixed memory, what launches each of them again; the first
# argument is the pool that their working memory comes from.
Capture = Callable[[Any, Work, Work], tuple[Work, Work]]
WARM_UPS = 3  # runs before a capture, in which libraries choose their algorithms


class Memory:
    """Fixed tensors of a cell, which its parts share: in a step one of them at most runs at each node.

    Args:
        like: what each value looks like.
        count: how many nodes there are.
    """

    def __init__(self, like: Tensor, count: int) -> None:
        self.values = [torch.empty_like(like, requires_grad=False) for _ in range(count)]
        self.grads = {(to, of): torch.empty_like(self.values[0]) for to in range(count) for of in range(to)}
        self.grad = torch.empty_like(self.values[0])  # of what a part writes
        self.pools = [torch.cuda.graph_pool_handle() if like.is_cuda else None for _ in range(count)]
        self.uses = 0

    def begin(self, x: Tensor) -> Tensor:
        """The first value, which takes those of x; from here on what earlier calls gave has no gradient any more."""
        self.uses += 1
        return _Begin.apply(self, x)

    def check(self, use: int) -> None:
        """Raises RuntimeError where this memory has been used again since."""
        if use != self.uses:
            raise RuntimeError("CUDA graphs: another forward has used this memory, run backward before it")


class Part:
    """What ``function`` makes of some values of the memory, as the value ``target``; and its gradient.

    Args:
        function: of values and, by closure, of ``weights``; in evaluation order the same kernels at each call.
        memory: of the cell.
        sources: which values it reads.
        target: which it writes.
        weights: parameters whose gradients are wanted.
        capture: `cuda_capture`.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        memory: Memory,
        sources: Sequence[int],
        target: int,
        weights: Sequence[Tensor],
        capture: Capture,
    ) -> None:
        self.memory, self.sources, self.target, self.weights = memory, tuple(sources), target, tuple(weights)
        self.grads = [memory.grads[target, source] for source in sources]
        self.weight_grads = [torch.empty_like(weight) for weight in weights]
        leaves = [memory.values[source].detach().requires_grad_() for source in sources]
        made: list[Tensor] = []

        def forward() -> None:
            with torch.enable_grad(), _autocast_as_now(memory.grad.device.type):
                made[:] = [function(*leaves)]
            memory.values[target].copy_(made[0].detach())

        def backward() -> None:
            out = made.pop()
            found = torch.autograd.grad(out, [*leaves, *self.weights], memory.grad.to(out.dtype))
            for grad, to in zip(found, [*self.grads, *self.weight_grads], strict=True):
                to.copy_(grad)

        self.forward, self.backward = capture(memory.pools[target], forward, backward)

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        """The value, with gradients; ``values`` are those of the sources."""
        return _Replay.apply(self, len(values), *values, *self.weights)


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Memory, x: Tensor) -> Tensor:
        memory.values[0].copy_(x)
        return memory.values[0].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, g


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Part, count: int, *tensors: Tensor) -> Tensor:
        for source, value in zip(part.sources, tensors[:count], strict=True):
            assert value.data_ptr() == part.memory.values[source].data_ptr(), "a part reads its memory"
        part.forward()
        ctx.part, ctx.use = part, part.memory.uses
        return part.memory.values[part.target].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        part, memory = ctx.part, ctx.part.memory
        memory.check(ctx.use)
        memory.grad.copy_(g)
        part.backward()
        # Of weights' gradients copies, for autograd keeps what it is given where it has none yet.
        return None, None, *(grad.detach() for grad in part.grads), *(grad.clone() for grad in part.weight_grads)


def _autocast_as_now(device: str) -> torch.autocast:
    """Autocast as it is, but that no cast of a weight outlives its use: a graph must cast it anew each time."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


def cuda_capture(pool: Any, forward: Work, backward: Work) -> tuple[Work, Work]:
    """As CUDA graphs, whose working memory comes from the pool: that of all parts of a node, as one alone is in use."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            forward()
            backward()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graphs = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # not torch.cuda.graph, which collects garbage each time: there are thousands
        for graph, work in zip(graphs, (forward, backward), strict=True):
            graph.capture_begin(pool=pool)
            work()
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graphs[0].replay, graphs[1].replay
