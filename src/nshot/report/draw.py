"""Draws a subnet, SVG or PNG, from what its space says of it (`Space.drawing`); `paint.py` has the shapes."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nshot.errors import UserError, unwritable
from nshot.files import check_length, read_json, write_atomically
from nshot.runs.naming import search_in
from nshot.spaces import Space, Subnet, space_from_dict
from nshot.spaces.drawing import Drawing, Graph

from .paint import FONT, MARGIN, SOFT, TEXT, PaintedChain, PaintedGraph, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 900  # CSS pixels


def picture(drawing: Drawing, caption: str = "", width: int = WIDTH) -> "Figure":
    """The drawing as a matplotlib figure of this width in pixels (graphs take less where they need less)."""
    from matplotlib.figure import Figure

    graphs = [PaintedGraph(part, width) if isinstance(part, Graph) else PaintedChain(part, width) for part in drawing]
    wide, caption_height = max(graph.width for graph in graphs), 2 * TEXT if caption else 0
    high = caption_height + sum(graph.height for graph in graphs)
    figure = Figure(figsize=(wide / 96, high / 96), dpi=96)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(high, 0))
    axes.set_axis_off()
    if caption:
        write(axes, MARGIN, TEXT, caption, ha="left", color=SOFT)
    top = float(caption_height)
    for graph in graphs:
        graph.paint(axes, top)
        top += graph.height
    return figure


def svg(drawing: Drawing, caption: str = "", width: int = WIDTH) -> str:
    """The picture as an SVG element."""
    return as_svg(picture(drawing, caption, width))


def as_svg(figure: "Figure") -> str:
    """A figure as an SVG element: text stays text, no header, the same bytes for the same figure."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nshot"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    # Where it is missing: fonts that are no wider.
    return text[text.index("<svg") :].replace(f"'{FONT}'", f"'{FONT}', Verdana, Arial, sans-serif")


def draw(space: Space, subnet: Subnet, path: Path) -> Path:
    """Writes the subnet's picture; the file's name says whether as SVG or PNG.

    Raises:
        UserError: for another ending, a subnet outside the space, or a folder that cannot be made.
    """
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"out {str(path)!r}: name a file that ends in .svg or .png")
    check_length(path)
    drawing = space.drawing(space.check(subnet))
    caption = f"{space.name}: {space.network_params(subnet):,} parameters, {space.flops(subnet):,} FLOPs"
    if path.suffix == ".svg":
        data = ('<?xml version="1.0" encoding="utf-8"?>\n' + svg(drawing, caption)).encode()
    else:
        buffer = io.BytesIO()
        picture(drawing, caption).savefig(buffer, format="png", dpi=2 * 96)
        data = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise unwritable(path, error, "choose another file") from None
    return path


def chosen_in(folder: Path) -> Path:
    """The JSON file of a folder that names a subnet; raises UserError where there is none, or several are meant."""
    named = [folder / name for name in ("result.json", "search.json") if (folder / name).exists()]
    found = named[0] if named else search_in(folder)
    if found is None:
        raise UserError(f"{folder} has no search.json or result.json: make one with nshot search or nshot retrain")
    return found


def read_drawn(choice: str, default: Space) -> tuple[Space, str]:
    """The space and the notation of a subnet: that of a search.json, a result.json or a folder that has one of them
    (of several the best), else the text itself in the default space.

    Raises:
        UserError: for a folder or file that has no subnet.
    """
    path = Path(choice)
    if os.path.isdir(choice):
        path = chosen_in(path)
    if path.suffix != ".json":
        return default, choice
    try:
        found = read_json(path)
        arch = (found if "arch" in found else found["best"])["arch"]
        if not isinstance(arch, str):
            raise TypeError("a notation is no text")
        return space_from_dict(found["space"]), arch
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no subnet ({error}): make one with nshot search or nshot retrain") from None
