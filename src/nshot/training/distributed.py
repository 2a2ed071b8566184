"""Data-parallel training: every process that torchrun starts trains the same paths on its share of each batch.

Plans and batches are functions of (seed, step), so processes agree on them without a word; what they exchange are
gradients. Batch norms normalise by a process's own share, as is usual.
"""

import atexit
import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from nshot.errors import UserError
from nshot.seeding import generator


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


def wait() -> None:
    """Goes on when all processes are here."""
    if size() > 1:
        dist.barrier()


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
