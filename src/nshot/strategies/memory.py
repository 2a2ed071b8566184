"""What methods with a memory are given: facts, the step's batch, what came of it, and tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from nshot.dynamic import SeparatedMomentum
from nshot.spaces import Mixture, Subnet, Supernet


@dataclass(frozen=True)
class Facts:
    """What a run's data and recipe come to, for what a memory must hold."""

    images: int
    """Training images N."""
    classes: int
    batch_size: int
    """Of all processes together."""
    lr: float
    """Base learning rate lr0."""
    optimizer: str = "sgd"
    """Of the supernet's weights, by its name."""


@dataclass(frozen=True)
class Batch:
    """The images of a step, (B, 3, H, W), of which each process has its share; of methods with several views, as many
    such batches one after the other."""

    images: Tensor
    labels: Tensor
    """Classes (B,), or shares of them (B, classes)."""
    positions: Tensor | None = None
    """Which images they are, of all processes together; None where the method did not choose them."""


@dataclass(frozen=True)
class Seen:
    """What a step came to, after the update. Weights still have their gradients, ``weight.grad``: read them alone."""

    batch: Batch
    outputs: tuple[Any, ...]
    """Of each path what `Strategy.objective` gave, detached: this process's share, before the update."""
    clip: float
    """What a weight's ``grad`` is still to be multiplied by: some optimizers clip inside their kernel."""


class Tools(Protocol):
    """What a method may ask for besides its memory (`nshot.training.tools`)."""

    facts: Facts
    supernet: Supernet
    """Its weights; run it by `output`."""
    optimizer: SeparatedMomentum
    """That of the supernet's weights, for its state and groups."""

    def output(self, images: Tensor, path: Subnet | Mixture) -> Any:
        """What the supernet gives, in the run's precision."""
        ...

    def features(self, images: Tensor, path: Subnet) -> Tensor:
        """`Supernet.features`, likewise."""
        ...

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """The run's criterion."""
        ...

    def gradients(self, loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Of the loss, zeros where a weight has no part in it: the means over the processes. Not clipped; no
        ``weight.grad`` changes."""
        ...

    def clip_with(self, others: Sequence[Tensor]) -> None:
        """From now on the gradients of these count too in the norm by which those of the weights are clipped."""
        ...

    def update(self, path: Subnet, rate: float, cluster: int) -> None:
        """A step of the supernet's optimizer besides the plan's: by the gradients that the path's weights have, which
        are cleared, at the multiple ``rate`` of lr0."""
        ...

    def second(self, step: int) -> Batch:
        """As many validation images, drawn uniformly with replacement and augmented as training images are: a
        function of (seed, step). Only for methods that say ``validates``."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes."""
        ...

    def gather(self, value: Tensor) -> Tensor:
        """The shares of all processes one after the other, along the first dimension: in the order of the batch."""
        ...


class Judge(Protocol):
    """Who scores subnets for a method's own choice (`Strategy.choose`)."""

    @property
    def images(self) -> int:
        """Validation images."""
        ...

    def accuracy(self, subnet: Subnet, positions: Sequence[int] | None = None) -> float:
        """In percent, on these validation images as one batch, without augmentation; None: on all."""
        ...


class Trained(nn.Module):
    """A memory that is trained: its optimizer is kept in the checkpoint with it.

    ``optimizer`` must be set before training begins.
    """

    optimizer: Optimizer

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
