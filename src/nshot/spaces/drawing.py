"""How a subnet is drawn, as a description: a cell as a graph, a network as a chain of blocks. `report/` paints it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    """From one node to a later one, by their positions; ``op`` labels and colours it."""

    source: int
    target: int
    op: str
    live: bool = True
    """Whether it changes the output; one that does not is drawn faint."""


@dataclass(frozen=True)
class Graph:
    """A cell: nodes from left to right, every edge leading to the right."""

    title: str
    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    kinds: tuple[str, ...]
    """All that an ``op`` may be: an operation has the same colour in all pictures of the space."""
    joined: tuple[int, ...] = ()
    """Nodes that the last one concatenates."""


@dataclass(frozen=True)
class Block:
    """A layer: the ``lines`` written on it, what it is coloured by, its height as a share of the highest."""

    lines: tuple[str, ...]
    kind: str = ""
    """One of the chain's ``kinds``; nothing for a layer that all subnets have."""
    height: float = 0.5
    """0 for a layer that is not run."""
    group: str = ""
    """Neighbours of one group have it written below them once."""


@dataclass(frozen=True)
class Chain:
    """Layers one after the other."""

    title: str
    blocks: tuple[Block, ...]
    kinds: tuple[str, ...]
    """What a block may be coloured by, for the legend."""
    note: str = ""
    """What heights and groups mean."""


Drawing = tuple[Graph | Chain, ...]


def short(op: str) -> str:
    """An operation's name as an edge's label: ``nor_conv_3x3`` is ``conv 3×3``, ``sep_conv_5x5`` ``sep 5×5``."""
    words = [word for word in op.split("_") if word not in ("nor", "connect")]
    kept = words[:1] + words[2:] if len(words) == 3 else words
    return re.sub(r"(\d)x(\d)", r"\1×\2", " ".join(kept))
