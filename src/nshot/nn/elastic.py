"""Elastic layers of a transformer: the leading slices of shared weights (AutoFormer, Chen et al., ICCV 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drop import DropPath


class ElasticLinear(nn.Linear):
    """Linear layer of the first ``out`` rows, on as many columns as its input has features."""

    def forward(self, x: Tensor, out: int) -> Tensor:  # type: ignore[override]
        return F.linear(x, self.weight[:out, : x.shape[-1]], self.bias[:out])


class ElasticNorm(nn.LayerNorm):
    """Layer norm over as many features as the input has."""

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)


class RelativePosition(nn.Module):
    """Embeddings (T, T, dim) of the distance between tokens, vertical plus horizontal, clipped; T = 1 + side².

    The class token, first, has a distance of its own to and from all others.
    """

    def __init__(self, side: int, dim: int, farthest: int = 14) -> None:
        super().__init__()
        self.vertical = nn.Parameter(torch.empty(2 * farthest + 2, dim))
        self.horizontal = nn.Parameter(torch.empty(2 * farthest + 2, dim))
        place = torch.arange(side * side)
        rows, columns = place // side, place % side
        index = torch.zeros(2, 1 + side * side, 1 + side * side, dtype=torch.long)
        for which, at in enumerate((rows, columns)):
            distance = (at[None] - at[:, None]).clamp(-farthest, farthest)
            index[which, 1:, 1:] = distance + farthest + 1
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Tensor:
        index = self.get_buffer("index")
        return self.vertical[index[0]] + self.horizontal[index[1]]


class ElasticAttention(nn.Module):
    """Multi-head self-attention of the first ``heads`` heads: (N, T, W) to (N, T, W).

    Rows of queries, keys and values take turns in one matrix, so that its leading slice holds whole heads of all three.
    """

    def __init__(self, width: int, heads: int, dim: int, side: int, relative: bool) -> None:
        super().__init__()
        self.dim = dim
        self.qkv = ElasticLinear(width, 3 * heads * dim)
        self.project = ElasticLinear(heads * dim, width)
        self.key_position = RelativePosition(side, dim) if relative else None
        self.value_position = RelativePosition(side, dim) if relative else None

    def forward(self, x: Tensor, heads: int) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x, 3 * heads * self.dim).view(n, tokens, heads, self.dim, 3)
        q, k, v = qkv.permute(4, 0, 2, 1, 3)  # (N, heads, T, dim) each
        scores = q @ k.transpose(-2, -1)
        if self.key_position is not None:
            scores = scores + _by_token(q, self.key_position().transpose(-2, -1))
        weights = (scores * self.dim**-0.5).softmax(-1)
        out = weights @ v
        if self.value_position is not None:
            out = out + _by_token(weights, self.value_position())
        return self.project(out.transpose(1, 2).reshape(n, tokens, heads * self.dim), width)


def _by_token(x: Tensor, matrices: Tensor) -> Tensor:
    """Each token's row of x (N, heads, T, a) times that token's matrix (T, a, b): (N, heads, T, b)."""
    n, heads, tokens, _ = x.shape
    return (x.permute(2, 0, 1, 3).flatten(1, 2) @ matrices).view(tokens, n, heads, -1).permute(1, 2, 0, 3)


class ElasticBlock(nn.Module):
    """Transformer block, norms first: attention of ``heads`` heads, then an MLP of ``hidden`` units.

    ``share`` is that of its drop-path.
    """

    def __init__(
        self, width: int, heads: int, dim: int, hidden: int, side: int, relative: bool, share: float = 1.0
    ) -> None:
        super().__init__()
        self.drop = DropPath(share)
        self.norm1, self.norm2 = ElasticNorm(width), ElasticNorm(width)
        self.attention = ElasticAttention(width, heads, dim, side, relative)
        self.expand, self.contract = ElasticLinear(width, hidden), ElasticLinear(hidden, width)
        self.residual = True

    def forward(self, x: Tensor, heads: int, hidden: int) -> Tensor:
        out = self.drop(self.attention(self.norm1(x), heads))
        x = x + out if self.residual else out
        out = self.drop(self.contract(F.gelu(self.expand(self.norm2(x), hidden)), x.shape[-1]))
        return x + out if self.residual else out

    def live(self, width: int, heads: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """The leading slices that `forward` uses, by name; what is not named it uses whole."""
        inner = heads * self.attention.dim
        rows = {"norm1": width, "norm2": width, "contract": width, "attention.project": width}
        rows |= {"expand": hidden, "attention.qkv": 3 * inner}
        columns = {"expand": width, "contract": hidden, "attention.qkv": width, "attention.project": inner}
        biases: dict[str, tuple[int, ...]] = {f"{name}.bias": (count,) for name, count in rows.items()}
        return biases | {
            f"{name}.weight": (n, *([columns[name]] if name in columns else [])) for name, n in rows.items()
        }


def initialise(module: nn.Module) -> None:
    """Weights from a normal of deviation 0.02, truncated; biases zero, norms one."""
    for name, parameter in module.named_parameters():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=0.02)
