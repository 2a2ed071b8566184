"""Pictures of subnets, of every space: no label on another, what is drawn is what the notation says."""

import io
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

import nshot
from helpers import SMALL, nshot_, refuse, sample
from nshot import UserError
from nshot.report.draw import draw, picture, svg
from nshot.report.paint import COLOURS, colour, lanes
from nshot.spaces import Space
from nshot.spaces.drawing import Edge, Graph, short

SEARCH = {"dataset": "digits", "space": {"name": "mobilenet", "width": 0.5, "num_classes": 10}}


@pytest.fixture(params=nshot.list_spaces())
def space(request: pytest.FixtureRequest) -> Space:
    return nshot.space(request.param)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts whose letters' boxes meet, or leave the picture; by what matplotlib measures."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in figure.axes[0].texts if t.get_text()]
    found = [(a, b) for (a, box), (b, other) in itertools.combinations(boxes, 2) if box.overlaps(other)]
    edge = figure.bbox.padded(0.5)
    out = [a for a, box in boxes if box.x0 < edge.x0 or box.x1 > edge.x1 or box.y0 < edge.y0 or box.y1 > edge.y1]
    return found + [(a, "border") for a in out]


@pytest.mark.parametrize("width", [900, 460])
def test_no_label_meets_another(space: Space, width: int) -> None:
    small = nshot.space(space.name, **SMALL.get(space.name, {}))
    extremes = [tuple(d.allowed[i] for d in space.decisions) for i in (0, -1)]
    for each in (space, small):
        for subnet in [*sample(each, 6), *(extremes if each is space else [])]:
            figure = picture(each.drawing(subnet), "a caption", width)
            assert overlapping(figure) == [], subnet
            assert figure.bbox.width <= width


def test_labels_that_meet_would_be_seen() -> None:
    """Else the test above could not fail."""
    figure = picture(nshot.space("nasbench201").drawing((3,) * 6))
    figure.axes[0].texts[3].set_position(figure.axes[0].texts[4].get_position())
    assert overlapping(figure)
    wide = picture(nshot.space("nasbench201").drawing((3,) * 6))
    wide.axes[0].texts[0].set_x(-20)
    assert [other for _, other in overlapping(wide)] == ["border"]


def test_a_space_that_does_not_say_how_is_drawn_by_its_decisions(space: Space) -> None:
    for subnet in sample(space, 2):
        figure = picture(Space.drawing(space, subnet))
        named = {d.name: d.options[option] for d, option in zip(space.decisions, subnet, strict=True)}
        drawn = texts(figure)[: 2 * len(named)]
        assert dict(zip(drawn[::2], drawn[1::2], strict=True)) == named
        assert overlapping(figure) == []


# what is drawn


def arrows(figure: Figure) -> list[FancyArrowPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def test_nasbench201_is_drawn_as_its_notation_says() -> None:
    space = nshot.space("nasbench201")
    for subnet in sample(space, 20):
        names = re.findall(r"\|(\w+)~", space.format(subnet).replace("|", "||"))
        expected = Counter(short(name) for name in names if name != "none")
        (graph,) = space.drawing(subnet)
        figure = picture((graph,))
        assert Counter(t for t in texts(figure) if t in graph.kinds) == expected
        assert len(arrows(figure)) == 6 - names.count("none")
        assert [(e.source, e.target) for e in graph.edges] == [
            edge for edge, name in zip([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], names, strict=True)
            if name != "none"
        ]  # fmt: skip


def test_dashed_are_the_edges_that_change_no_output() -> None:
    space = nshot.space("nasbench201", **SMALL["nasbench201"])
    supernet, x = space.supernet().eval(), torch.randn(4, 3, 8, 8)
    dashed = 0
    for subnet in sample(space, 30):
        (graph,) = space.drawing(subnet)
        for edge in graph.edges:
            index = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)].index((edge.source, edge.target))
            without = (*subnet[:index], 0, *subnet[index + 1 :])
            with torch.no_grad():
                assert torch.equal(supernet(x, subnet), supernet(x, without)) == (not edge.live)
            dashed += not edge.live
        assert ("dashed: changes no output" in texts(picture((graph,)))) == any(not e.live for e in graph.edges)
    assert dashed > 5


def test_darts_is_drawn_as_its_genotype_says() -> None:
    space = nshot.space("darts")
    for subnet in sample(space, 20):
        written = re.findall(r"(normal|reduce)=\[(.*?)\]", space.format(subnet))
        for (_, cell), graph in zip(written, space.drawing(subnet), strict=True):
            entries = [(short(op), int(source)) for op, source in re.findall(r"\('(\w+)', (\d)\)", cell)]
            assert [(e.op, e.source) for e in graph.edges] == entries
            assert [e.target for e in graph.edges] == [2, 2, 3, 3, 4, 4, 5, 5]
            labels = Counter(" ".join(t.split()) for t in texts(picture((graph,))))
            assert all(labels[op] == count for op, count in Counter(op for op, _ in entries).items())


def test_mobilenet_is_drawn_as_its_notation_says() -> None:
    space = nshot.space("mobilenet")
    paints = {"3": colour("3×3", ("3×3", "5×5", "7×7")), "5": COLOURS[1], "7": COLOURS[2]}
    for subnet in sample(space, 5):
        figure = picture(space.drawing(subnet))
        blocks = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)][:-3]  # the legend's are the last
        named = re.findall(r"MB(\d)_(\d)x", space.format(subnet))
        assert len(blocks) == len(named) + 3
        for block, (expansion, kernel) in zip(blocks[2:-1], named, strict=True):
            assert to_hex(block.get_facecolor()) == paints[kernel]
            assert (block.get_height() > blocks[0].get_height() * 1.2) == (expansion == "6")
        assert texts(figure).count("skip") == space.format(subnet).count("skip")
        assert {"24", "40", "80", "96", "192", "320", "1280"} <= set(texts(figure))


def test_autoformer_is_drawn_with_the_layers_that_are_run() -> None:
    space = nshot.space("autoformer")
    for subnet in sample(space, 5):
        words = dict(word.split("=") for word in space.format(subnet).split())
        depth = int(words["depth"])
        drawn = texts(picture(space.drawing(subnet)))
        assert [t for t in drawn if re.fullmatch(r"\dh", t)] == [f"{h}h" for h in words["heads"].split(",")[:depth]]
        ratios = [f"×{float(r):g}" for r in words["ratio"].split(",")[:depth]]
        assert [t for t in drawn if re.fullmatch(r"×[\d.]+", t)] == ratios
        assert words["width"] in drawn


def test_options_of_a_space_have_colours_of_their_own(space: Space) -> None:
    for part in space.drawing(sample(space, 1)[0]):
        paints = {colour(kind, part.kinds) for kind in part.kinds}
        assert len(paints) == len(part.kinds) > 1


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=14), st.sampled_from([1, 2]))
def test_arcs_of_one_height_do_not_overlap(pairs: set[tuple[int, int]], sides: int) -> None:
    edges = [Edge(source, source + span, "op") for source, span in pairs]
    found = lanes(edges, sides)
    assert set(found) == set(edges)
    for edge, lane in found.items():
        assert (lane == 0) == (edge.target - edge.source == 1)
        assert lane >= 0 or sides == 2
    for a, b in itertools.combinations(edges, 2):
        if found[a] == found[b]:
            assert not set(range(a.source, a.target)) & set(range(b.source, b.target))


def test_the_same_subnet_gives_the_same_bytes_and_text_stays_text() -> None:
    space = nshot.space("nasbench201")
    text = svg(space.drawing((3, 1, 2, 4, 0, 3)))
    assert text == svg(space.drawing((3, 1, 2, 4, 0, 3)))
    root = ET.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"conv 3×3", "skip", "conv 1×1", "avg 3×3", "in", "out"} <= set(words)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)


# files and the command line


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_draw_writes_every_space(space: Space, ending: str, tmp_path: Path) -> None:
    (subnet,) = sample(space, 1)
    out = tmp_path / "new" / f"cell.{ending}"
    status, said, err = nshot_("draw", space.format(subnet), "--space", space.name, "--out", out)
    assert (status, said, err) == (0, f"written: {out}\n", "")
    caption = f"{space.network_params(subnet):,} parameters"
    if ending == "svg":
        root = ET.parse(out).getroot()
        assert any(caption in (node.text or "") for node in root.iter("{http://www.w3.org/2000/svg}text"))
    else:
        image = np.asarray(Image.open(io.BytesIO(out.read_bytes())).convert("RGB")).astype(int)
        assert 800 < image.shape[1] <= 1800
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    assert out.stat().st_size < 300_000


def test_draw_reads_what_search_and_retrain_wrote(tmp_path: Path) -> None:
    space = nshot.space("mobilenet", width=0.5, num_classes=10)
    first, second = sample(space, 2)
    expected = {key: draw(space, subnet, tmp_path / f"{key}.svg").read_bytes() for key, subnet in
                (("search", first), ("result", second))}  # fmt: skip
    (tmp_path / "run").mkdir()
    for key, subnet in (("search", first), ("result", second)):
        row = {"arch": space.format(subnet)}
        found = {**SEARCH, **(row if key == "result" else {"best": row})}
        (tmp_path / "run" / f"{key}.json").write_text(json.dumps(found))
        for choice in (tmp_path / "run" / f"{key}.json", *([tmp_path / "run"] if key == "search" else [])):
            assert nshot_("draw", choice, "--out", tmp_path / "drawn.svg")[0] == 0
            assert (tmp_path / "drawn.svg").read_bytes() == expected[key]
    assert nshot_("draw", tmp_path / "run", "--out", tmp_path / "drawn.svg")[0] == 0  # a retrained one comes first
    assert (tmp_path / "drawn.svg").read_bytes() == expected["result"]


def test_draw_takes_a_number_and_sizes(tmp_path: Path) -> None:
    space = nshot.space("nasbench201", channels=4)
    out = tmp_path / "a.svg"
    assert nshot_("draw", "released:15000", "--channels", "4", "--out", out)[0] == 0
    assert out.read_bytes() == draw(space, space.at(15000), tmp_path / "b.svg").read_bytes()


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    out = tmp_path / "a.svg"
    assert "SUBNET: its notation" in refuse("draw")
    assert "ends in .svg or .png" in refuse("draw", "released:7", "--out", tmp_path / "a.pdf")
    assert "0 to 15624" in refuse("draw", "released:15625", "--out", out)
    assert "is no darts subnet" in refuse("draw", "7", "--space", "darts", "--out", out)
    assert "unknown space 'mars'" in refuse("draw", "7", "--space", "mars", "--out", out)
    assert "has no search.json or result.json" in refuse("draw", tmp_path, "--out", out)
    assert "holds no subnet" in refuse("draw", tmp_path / "none" / "search.json", "--out", out)
    for content in ("", "[]", "null", "{}", json.dumps(SEARCH), json.dumps({**SEARCH, "best": None})):
        (tmp_path / "search.json").write_text(content)
        assert "search.json holds no subnet" in refuse("draw", tmp_path, "--out", out)
    (tmp_path / "search.json").write_text(json.dumps({**SEARCH, "best": {"arch": "nothing"}}))
    assert "'nothing' is no mobilenet subnet" in refuse("draw", tmp_path, "--out", out)
    assert "leave out --space" in refuse("draw", tmp_path, "--space", "darts", "--out", out)
    (tmp_path / "file").write_text("")
    assert "choose another file" in refuse("draw", "released:7", "--out", tmp_path / "file" / "a.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "search.json"]
    with pytest.raises(UserError, match="6 decisions"):
        draw(nshot.space("nasbench201"), (0,), out)


def test_a_cell_without_edges_is_drawn() -> None:
    assert overlapping(picture((Graph("nothing", ("in", "out"), (), ("op",)),))) == []
    assert overlapping(picture(nshot.space("nasbench201").drawing((0,) * 6))) == []
