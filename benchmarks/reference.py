"""The authors' released procedure on NAS-Bench-201, written plainly from its description: speed is measured against it.

Contiguous tensors; every edge computed, each operation with its own ReLU and batch norm; ``none`` multiplies by zero;
one torch SGD a cluster over gradients that are filled with zeros; the loss read off the device at each step; ranking
decodes every image anew for every subnet, in four fresh worker processes.
"""

import io

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGES = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def relu_conv_norm(c_in: int, c: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=False), nn.Conv2d(c_in, c, kernel, stride, kernel // 2), norm(c))


class Cell(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(
                [
                    Zero(),
                    nn.Identity(),
                    relu_conv_norm(c, c, 1),
                    relu_conv_norm(c, c, 3),
                    nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                ]
            )
            for _ in EDGES
        )

    def forward(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        nodes = [x]
        for node in (1, 2, 3):
            nodes.append(
                sum(self.edges[e][subnet[e]](nodes[s]) for e, (target, s) in enumerate(EDGES) if target == node)
            )
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        self.a, self.b = relu_conv_norm(c_in, c, 3, 2), relu_conv_norm(c, c, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, 0), nn.Conv2d(c_in, c, 1, bias=False))

    def forward(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        return self.shortcut(x) + self.b(self.a(x))


class Supernet(nn.Module):
    def __init__(self, channels: int, cells: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), norm(channels))
        blocks: list[nn.Module] = [Cell(channels) for _ in range(cells)]
        for c in (2 * channels, 4 * channels):
            blocks += [Reduction(c // 2, c), *(Cell(c) for _ in range(cells))]
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Sequential(norm(4 * channels), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor, subnet: tuple[int, ...]) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, subnet)
        return self.classifier(F.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


class Trainer:
    """One step at a time, with one SGD a cluster (CaLR + MS) and the first edge's option as the cluster."""

    def __init__(self, net: Supernet) -> None:
        self.net = net
        self.optimizers = [
            torch.optim.SGD(net.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True)
            for _ in range(5)
        ]

    def step(self, images: Tensor, labels: Tensor, subnet: tuple[int, ...]) -> float:
        optimizer = self.optimizers[subnet[0]]
        optimizer.zero_grad(set_to_none=False)
        for p in self.net.parameters():  # as the released code's torch left them: filled with zeros
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        loss = F.cross_entropy(self.net(images, subnet), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5)
        optimizer.step()
        return loss.item()


class Encoded(torch.utils.data.Dataset):
    """Encoded images, decoded when asked for."""

    def __init__(self, images: list[bytes], labels: list[int], resolution: int) -> None:
        self.images, self.labels, self.resolution = images, labels, resolution

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        import numpy as np
        from PIL import Image

        image = Image.open(io.BytesIO(self.images[i])).convert("RGB").resize((self.resolution, self.resolution))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        return (pixels - 0.5) / 0.25, self.labels[i]


@torch.no_grad()
def rank_one(net: Supernet, data: Encoded, subnet: tuple[int, ...]) -> float:
    """Accuracy in percent, by a data loader with four worker processes made for this subnet."""
    loader = torch.utils.data.DataLoader(data, batch_size=256, shuffle=False, num_workers=4)
    hits = sum((net(images, subnet).argmax(1) == labels).sum().item() for images, labels in loader)
    return 100 * hits / len(data)
