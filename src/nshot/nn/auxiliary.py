"""The auxiliary head of the DARTS networks (Liu et al., ICLR 2019), after Szegedy et al. (CVPR 2015)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .cells import Norm


class AuxiliaryHead(nn.Module):
    """(N, c, side, side) to logits (N, classes); ``side`` is at least 2.

    Averages five eighths of the image to 2x2: windows of 5 at a distance of 3 on the 8x8 of CIFAR-10, of 2 on the 7x7
    of ImageNet, as the original.
    """

    def __init__(self, c: int, side: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.window = min(-(-5 * side // 8), side - 1)
        self.stride = side - self.window
        self.narrow, self.narrow_norm = nn.Conv2d(c, 128, 1, bias=False), norm(128)
        self.widen, self.widen_norm = nn.Conv2d(128, 768, 2, bias=False), norm(768)
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(x), self.window, self.stride)
        x = F.relu(self.narrow_norm(self.narrow(x)))
        return self.classifier(F.relu(self.widen_norm(self.widen(x))).flatten(1))


class WithAuxiliary(nn.Module):
    """In training gives (logits, auxiliary logits), otherwise logits, which are those of ``network``.

    Args:
        network: the network, whose weights count.
        at: name of its module whose output the head reads.
        head: the auxiliary head.
    """

    def __init__(self, network: nn.Module, at: str, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.at = at
        self.head = head

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.training:
            return self.network(x)
        seen: list[Tensor] = []
        with self.network.get_submodule(self.at).register_forward_hook(lambda *call: seen.append(call[-1])):
            logits = self.network(x)
        return logits, self.head(seen[0])
