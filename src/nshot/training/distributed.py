"""Data-parallel training: every process that torchrun starts trains the same paths on its share of each batch.

Plans and batches are functions of (seed, step), so processes agree on them without a word; what they exchange are
gradients. Batch norms normalise by a process's own share, as is usual.
"""

import atexit
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nshot.errors import UserError
from nshot.seeding import generator

from .heartbeat import Heartbeat

_heart: list[Heartbeat] = []  # this process's, where several train together


def size() -> int:
    """How many processes train together: 1 outside of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which one this is; 0 alone writes the run folder."""
    return int(os.environ.get("RANK", "0"))


def alone(what: str) -> None:
    """Raises UserError where torchrun started several processes: ``what`` is the work of one."""
    if size() > 1:
        raise UserError(f"{size()} processes: {what} is made in one, start without torchrun; nshot train takes several")


def own_seed(seed: int) -> int:
    """Of what each process draws for its own share of a batch (drop-path): the first's is the run's."""
    return int(generator(seed, "process", rank()).integers(2**63)) if rank() else seed


def devices(device: str) -> int | list[int]:
    """What Fabric is told: this process's own GPU where several train on GPUs, else one of any."""
    gpus = size() > 1 and device != "cpu" and torch.cuda.is_available()
    return [int(os.environ["LOCAL_RANK"])] if gpus else 1


def join(device: torch.device) -> None:
    """Meets the other processes, if there are any, until this one ends."""
    if size() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # its threads must be gone before the interpreter, or that aborts
        _heart.append(Heartbeat(rank(), size()))


@contextmanager
def watched() -> Iterator[None]:
    """While it lasts, a process that is gone ends the others, and is named.

    Raises:
        UserError: for one that was killed, in the first process of those that live; the others end without a word.
    """
    if not _heart:
        yield
        return
    (heart,) = _heart
    heart.watching.set()
    try:
        yield
    except RuntimeError:  # gloo's words, or a fault of ours
        if not (gone := heart.silent()):
            heart.say_ended()
            raise
        error = heart.told(gone)
        heart.say_ended()
        raise (error or SystemExit(2)) from None
    except BaseException:
        heart.say_ended()
        raise
    finally:
        heart.watching.clear()


def wait() -> None:
    """Goes on when all processes are here."""
    if size() > 1:
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """Over the processes; itself where there is one."""
    if size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total.div_(size())


def largest(value: int, device: torch.device) -> int:
    """Of the processes' values."""
    if size() == 1:
        return value
    told = torch.tensor(value, device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)


def gather(value: Tensor) -> Tensor:
    """The processes' values, of one shape, one after the other along the first dimension."""
    if size() == 1:
        return value
    shares = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(shares, value.contiguous())
    return torch.cat(shares)


def check_equal(module: nn.Module, what: str, device: torch.device) -> None:
    """Raises UserError where a module's parameters and buffers, and its extra state, are not equal in all processes."""
    if size() == 1 or not module.state_dict():
        return
    own = torch.frombuffer(bytearray(digest(module.state_dict())[:8]), dtype=torch.int64).to(device)
    others = gather(own).tolist()
    if len(set(others)) > 1:
        who = next(i for i, other in enumerate(others) if other != others[0])
        raise UserError(f"{what} differs in process {who} from that in process 0: start again in one process")


def digest(state: Any) -> bytes:
    """SHA-256 of tensors, by name and bit for bit, in nested dictionaries and lists."""
    found = hashlib.sha256()
    if isinstance(state, Tensor):
        found.update(f"{state.dtype}{tuple(state.shape)}".encode())
        found.update(state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(state, Mapping):
        for key, value in state.items():
            found.update(repr(key).encode() + digest(value))
    elif isinstance(state, list | tuple):
        for value in state:
            found.update(digest(value))
    else:
        found.update(repr(state).encode())
    return found.digest()


def averaged(backward: Callable[[Tensor], None], weights: Iterable[Tensor]) -> Callable[[Tensor], None]:
    """``backward``, after which gradients are means over the processes; itself where there is one process.

    All processes run the same path, so the same weights have gradients. Those of a step's earlier paths are equal
    everywhere already, and a mean leaves them as they are.
    """
    if size() == 1:
        return backward
    weights = list(weights)

    def together(loss: Tensor) -> None:
        backward(loss)
        grads = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= size()
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    return together
