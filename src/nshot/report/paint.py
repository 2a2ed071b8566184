"""Paints drawings on matplotlib axes: cells as graphs (the paper's figure D), chains of blocks (figures E to G)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nshot.spaces.drawing import Block, Chain, Edge, Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# All lengths are CSS pixels.
TEXT, MARGIN = 12, 14
FONT = "DejaVu Sans"  # comes with matplotlib
LANE, HALF = 30, 13  # between arcs' heights; half of a node's height
SPACING = 170  # at most, between nodes
HIGH, BLOCK, GAP = 92, 72, 6  # the highest block; a block's greatest width; between two
POINT = 72 / 96  # matplotlib measures text and lines in points

# Okabe and Ito's colours, which the colour-blind can tell apart; grey for what is not chosen.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d00", "#5e3c99")
GREY, SOFT, INK = "#9aa0a6", "#5f6368", "#202124"


def write(axes: "Axes", x: float, y: float, text: str, size: float = TEXT, **style: Any) -> None:
    style = {"ha": "center", "va": "center", "color": INK, "parse_math": False, **style}
    axes.text(x, y, text, fontsize=size * POINT, fontfamily=FONT, **style)


def _long(text: str, size: float = TEXT) -> float:
    """About how long a text is; DejaVu's widest common letters are rarer than its narrow ones."""
    return 0.64 * size * len(text)


def colour(kind: str, kinds: Iterable[str]) -> str:
    """Of one kind among its space's."""
    kinds = list(kinds)
    return COLOURS[kinds.index(kind) % len(COLOURS)] if kind in kinds else GREY


def _dark(paint: str) -> tuple[float, ...]:
    """The same hue, to be read on white."""
    from matplotlib.colors import to_rgb

    return tuple(0.65 * part for part in to_rgb(paint))


def _light(paint: str) -> bool:
    """Whether dark text reads better on it."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(paint)
    return 0.3 * red + 0.59 * green + 0.11 * blue > 0.5


class PaintedGraph:
    """A cell on a line: edges between neighbours are straight, each longer one an arc with a height of its own where it
    would meet another, so that no two labels can."""

    def __init__(self, graph: Graph, width: int) -> None:
        self.graph = graph
        ends = 2 * (MARGIN + HALF + 4)
        self.spacing = min(SPACING, (width - ends) / (len(graph.nodes) - 1))
        self.width = ends + self.spacing * (len(graph.nodes) - 1)
        self.lanes = lanes(graph.edges, sides=1 if graph.joined else 2)
        heights = [_height(lane) for lane in self.lanes.values()]
        self.above = max([HALF, *heights]) + TEXT
        self.below = HALF + 2 * LANE if graph.joined else max([HALF, *(-height for height in heights)]) + TEXT
        self.height = 2 * TEXT + self.above + self.below

    def paint(self, axes: "Axes", top: float) -> None:
        write(axes, MARGIN, top + TEXT, self.graph.title, ha="left", weight="bold")
        if not all(edge.live for edge in self.graph.edges):
            note = "dashed: changes no output"
            write(axes, self.width - MARGIN, top + TEXT, note, TEXT - 1, ha="right", color=SOFT)
        y = top + 2 * TEXT + self.above
        for edge in self.graph.edges:
            self._edge(axes, edge, y)
        self._join(axes, y)
        for i, name in enumerate(self.graph.nodes):
            box = {"boxstyle": f"round,pad=0,rounding_size={HALF / 2}", "fc": "white", "ec": INK, "lw": 1.2 * POINT}
            _box(axes, self._x(i) - HALF - 3, y - HALF, 2 * HALF + 6, 2 * HALF, box)
            write(axes, self._x(i), y, name)

    def _x(self, node: int) -> float:
        return MARGIN + HALF + 4 + self.spacing * node

    def _edge(self, axes: "Axes", edge: Edge, y: float) -> None:
        from matplotlib.path import Path as Curve

        lane, paint = self.lanes[edge], colour(edge.op, self.graph.kinds)
        start, end, alpha = self._x(edge.source), self._x(edge.target), 1 if edge.live else 0.3
        label, at, box = edge.op, y - _height(lane), {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}
        if lane == 0:
            start, end = start + HALF + 4, end - HALF - 4
            curve = Curve([(start, y), (end, y)])
            if _long(label, TEXT - 1) > end - start - 12:  # one word above the line, one below
                label, box = label.replace(" ", "\n") if " " in label else f"{label}\n", {"fc": "none", "ec": "none"}
        else:
            start, end, leave = start + 6, end - 6, y - HALF * (1 if lane > 0 else -1)
            peak, bend = leave + (at - leave) * 4 / 3, (end - start) / 10
            curve = Curve([(start, leave), (start + bend, peak), (end - bend, peak), (end, leave)], [1, 4, 4, 4])
        _arrow(axes, curve, paint, alpha, dashed=not edge.live)
        style = {"color": _dark(paint), "alpha": 1 if edge.live else 0.6, "bbox": box, "linespacing": 1.6}
        write(axes, (start + end) / 2, at, label, TEXT - 1, **style)

    def _join(self, axes: "Axes", y: float) -> None:
        """One line below that collects the nodes which the last one concatenates."""
        from matplotlib.path import Path as Curve

        last, bus = self._x(len(self.graph.nodes) - 1), y + HALF + LANE
        for node in self.graph.joined:
            axes.plot([self._x(node)] * 2, [y + HALF, bus], color=GREY, lw=1.5 * POINT)
        if self.graph.joined:
            start = self._x(min(self.graph.joined))
            _arrow(axes, Curve([(start, bus), (last, bus), (last, y + HALF)]), GREY, 1)
            write(axes, (start + last) / 2, bus + 10, "concatenated", TEXT - 1, color=SOFT)


def _height(lane: int) -> float:
    """Where an arc's label stands, above the nodes' middle."""
    return lane * LANE + (LANE / 3 if lane > 0 else -LANE / 3 if lane < 0 else 0)


def lanes(edges: Iterable[Edge], sides: int) -> dict[Edge, int]:
    """A height for each edge: 0 between neighbours, else 1, 2, ... above and, with two sides, -1, -2, ... below; those
    of one height do not overlap."""
    taken: dict[int, list[Edge]] = {}
    found = {}
    for edge in sorted(edges, key=lambda e: (e.target - e.source, e.source)):
        lane = 0
        while edge.target - edge.source > 1 and (
            lane == 0 or any(o.source < edge.target and edge.source < o.target for o in taken.get(lane, ()))
        ):
            lane = -lane if lane > 0 and sides == 2 else abs(lane) + 1
        taken.setdefault(lane, []).append(edge)
        found[edge] = lane
    return found


class PaintedChain:
    """Blocks in rows as long as the width allows, what they stand on, groups below, the legend last."""

    def __init__(self, chain: Chain, width: int) -> None:
        self.chain, self.width = chain, float(width)
        texts = [line for block in chain.blocks for line in (*block.lines, block.group)]
        least = max(_long(text, TEXT - 1) for text in texts) + 4 + GAP
        room = width - 2 * MARGIN
        rows = -(-len(chain.blocks) // max(1, int(room / least)))
        self.row = -(-len(chain.blocks) // rows)
        self.step = max(least, min(BLOCK, room / self.row))
        self.lines = max(len(block.lines) for block in chain.blocks)
        self.row_height = HIGH + TEXT + 2 * TEXT * any(block.group for block in chain.blocks)
        self.top = 2 * TEXT if chain.title else 0
        self.height = self.top + rows * self.row_height + 2 * TEXT * bool(chain.kinds or chain.note)

    def paint(self, axes: "Axes", top: float) -> None:
        if self.chain.title:
            write(axes, MARGIN, top + TEXT, self.chain.title, ha="left", weight="bold")
        top += self.top
        for start in range(0, len(self.chain.blocks), self.row):
            blocks = self.chain.blocks[start : start + self.row]
            self._row(axes, blocks, top + HIGH + TEXT / 2)
            top += self.row_height
        self._legend(axes, top + TEXT)

    def _row(self, axes: "Axes", blocks: tuple[Block, ...], floor: float) -> None:
        least, wide = TEXT * (self.lines + 1), self.step - GAP
        middle = floor - least / 2
        axes.plot([MARGIN, MARGIN + self.step * len(blocks) - GAP], [middle] * 2, color=GREY, lw=1.5 * POINT, zorder=0)
        for i, block in enumerate(blocks):
            x, high = MARGIN + i * self.step, least + (HIGH - least) * block.height
            paint = colour(block.kind, self.chain.kinds)
            style = {"boxstyle": "round,pad=0,rounding_size=4", "fc": paint if block.kind else "#e8eaed", "ec": "none"}
            if block.height > 0:
                _box(axes, x, floor - high, wide, high, style)
            ink = INK if block.height == 0 or _light(style["fc"]) else "white"
            patch = {} if block.height > 0 else {"bbox": {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}}
            for j, line in enumerate(block.lines):
                at = middle + (j - (len(block.lines) - 1) / 2) * (TEXT + 3)
                write(axes, x + wide / 2, at, line, TEXT - 1, color=ink, **patch)
        self._groups(axes, blocks, floor)

    def _groups(self, axes: "Axes", blocks: tuple[Block, ...], floor: float) -> None:
        start = 0
        for i, block in enumerate(blocks, start=1):
            if i < len(blocks) and blocks[i].group == block.group:
                continue
            if block.group:
                left, right = MARGIN + start * self.step, MARGIN + i * self.step - GAP
                axes.plot([left, right], [floor + 5] * 2, color=INK, lw=POINT)
                write(axes, (left + right) / 2, floor + 5 + TEXT, block.group, TEXT - 1)
            start = i

    def _legend(self, axes: "Axes", y: float) -> None:
        x = float(MARGIN)
        for kind in self.chain.kinds:
            style = {"boxstyle": "round,pad=0,rounding_size=2", "fc": colour(kind, self.chain.kinds), "ec": "none"}
            _box(axes, x, y - TEXT / 2, TEXT, TEXT, style)
            write(axes, x + TEXT + 5, y, kind, TEXT - 1, ha="left")
            x += TEXT + 20 + _long(kind, TEXT - 1)
        write(axes, x, y, self.chain.note, TEXT - 1, ha="left", color=SOFT)


def _box(axes: "Axes", x: float, y: float, wide: float, high: float, style: dict[str, Any]) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), wide, high, **style))


def _arrow(axes: "Axes", curve: Any, paint: str, alpha: float, dashed: bool = False) -> None:
    from matplotlib.patches import FancyArrowPatch

    style: dict[str, Any] = {
        "linestyle": (0, (3, 2)) if dashed else "-",
        "lw": 1.8 * POINT,
        "color": paint,
        "alpha": alpha,
    }
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, **style))
