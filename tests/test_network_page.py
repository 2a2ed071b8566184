"""nshot report of a retrained network: the verdict's figures as text, names as they are, and in headless Chromium."""

import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nshot
from helpers import nshot_, quiet, refuse
from nshot.data.sources import Dataset, load
from nshot.handover.verdict import MISTAKES, VERDICT, judge, read_verdict
from nshot.networks.recipes import Recipe
from nshot.networks.retrain import RetrainConfig, retrain, retrain_best
from nshot.report.confusion import plot_confusion
from nshot.runs.log import read_log
from test_report import browser, data_of  # noqa: F401 (a fixture)

NAMES = [
    "<b>cat</b>",
    '"; alert(1)//',
    "日本",
    "caf\udcff",
    "a name that is much longer than any place for it",
    "$x_1$",
]
SPACE = nshot.space("nasbench201", channels=4, cells=1, resolution=8)
ARCHS = [
    f"|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|{last}~2|" for last in ("none", "nor_conv_1x1")
]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Six digits whose classes have names of all kinds."""
    digits = load("digits", resolution=8)
    parts = [part.subset(np.flatnonzero(part.labels.numpy() < 6)) for part in (digits.train, digits.valid, digits.test)]
    return Dataset("imagefolder:<i>pets", 6, False, *parts, tuple(NAMES))


@pytest.fixture(scope="module")
def config(data: Dataset) -> RetrainConfig:
    return RetrainConfig(space=SPACE, recipe=Recipe(epochs=2, batch_size=32), dataset=data.name, log_every=5)


@pytest.fixture(scope="module")
def folder(data: Dataset, config: RetrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "net <1>"
    retrain(config, SPACE.with_classes(6).parse(ARCHS[0]), data, out, device="cpu", say=quiet)
    judge(out, data, device="cpu", say=quiet)
    assert nshot_("report", out) == (0, f"written: {out / 'report.html'}\n", "")
    return out


def verdict_of(folder: Path) -> dict[str, Any]:
    verdict = read_verdict(folder)
    assert verdict is not None
    return verdict


def test_the_page_has_the_verdicts_figures(folder: Path) -> None:
    page, verdict = (folder / "report.html").read_text(), verdict_of(folder)
    for row in (verdict["test"], *verdict["baselines"].values()):
        assert f"<td>{row['accuracy']:.2f}</td><td>{row['low']:.2f} to {row['high']:.2f}</td>" in page
        assert f"<td>{row['balanced_accuracy']:.2f}</td>" in page
    for row in verdict["classes"]:
        assert f"<td>{row['images']}</td><td>{row['recall']:.1f}</td>" in page
    for cost in (f"{verdict['params']:,}", f"{verdict['flops']:,}", f"{verdict['latency_ms']:.3g} ms an image"):
        assert f"<dd>{cost}</dd>" in page
    assert page.count("<figure>") == page.count("data:image/png;base64") - 2 == len(verdict["mistakes"]) <= MISTAKES
    for picture in verdict["pictures"]:
        assert picture in page
    log = read_log(folder / "log.jsonl")
    curves = data_of(folder / "report.html")["curves"]
    assert curves["network-loss"] == [[folder.name, [[line["step"], line["loss"]] for line in log]]]
    assert set(curves) == {"network-loss", "network-lr"}
    assert f"nshot export &#x27;{escape(str(folder))}&#x27; --out NEW_FOLDER" in page


def test_names_are_names_and_the_page_needs_no_network(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<h1>net &lt;1&gt;</h1>" in page
    assert "<b>cat" not in page
    assert "<i>pets" not in page
    for name in (
        "<td>&quot;; alert(1)//</td>",
        "&lt;b&gt;cat&lt;/b&gt;",
        "日本",
        "caf\\udcff",
        "imagefolder:&lt;i&gt;pets",
    ):
        assert name in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert set(re.findall(r"https?://[^\"\\ ]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(page) < 1_000_000


def test_what_is_no_better_is_loud(folder: Path, tmp_path: Path) -> None:
    verdict = verdict_of(folder)
    for p, loud in ((0.2, True), (0.001, False)):
        verdict["test"]["accuracy"] = 99.0
        for row in verdict["baselines"].values():
            row["p"] = p
        shutil.copytree(folder, tmp_path / str(p))
        (tmp_path / str(p) / VERDICT).write_text(json.dumps(verdict))
        assert nshot_("report", tmp_path / str(p))[0] == 0
        page = (tmp_path / str(p) / "report.html").read_text()
        assert ("The network is not shown to be better than always &#x27;" in page) == loud
        assert ('class="loud"' in page) == loud


def test_what_is_not_there_is_said_with_its_command(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / VERDICT).unlink()
    assert nshot_("report", copy, "--out", tmp_path / "page.html")[0] == 0
    assert f"<pre>nshot verdict {copy}</pre>" in (tmp_path / "page.html").read_text()
    (copy / "result.json").unlink()
    assert nshot_("report", copy, "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "The retraining is not finished" in page
    assert f"nshot retrain &#x27;{ARCHS[0]}&#x27; --out {copy} [the same options]" in page
    assert "network-loss" in data_of(tmp_path / "page.html")["curves"]


def test_the_best_of_several(data: Dataset, config: RetrainConfig, tmp_path: Path) -> None:
    subnets = [SPACE.with_classes(6).parse(arch) for arch in ARCHS]
    retrain_best(config, subnets, data, tmp_path / "out", device="cpu", say=quiet)
    judge(tmp_path / "out", data, device="cpu", say=quiet)
    assert nshot_("report", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The best of 2 by test accuracy" in page
    assert len(data_of(tmp_path / "out" / "report.html")["curves"]["network-loss"]) == 2


def test_of_very_many_classes_the_weakest_are_listed(folder: Path, tmp_path: Path) -> None:
    verdict = verdict_of(folder)
    rows = [{**verdict["classes"][0], "name": f"class {i}", "recall": float((37 * i) % 301)} for i in range(301)]
    table = np.eye(301, dtype=int).tolist()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / VERDICT).write_text(
        json.dumps({**verdict, "classes": rows, "confusion": table, "mistakes": [], "pictures": []})
    )
    assert nshot_("report", copy)[0] == 0
    page = (copy / "report.html").read_text()
    shown = re.findall(r"<td>(class \d+)</td>", page)
    assert shown == [row["name"] for row in sorted(rows, key=lambda row: row["recall"])[:100]]
    assert "None of the test images is taken for another class" in page


def test_a_broken_verdict_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    verdict = verdict_of(folder)
    for broken in ("{", json.dumps({**verdict, "test": {}}), json.dumps({**verdict, "classes": [1]})):
        (copy / VERDICT).write_text(broken)
        assert "make it again with nshot verdict" in refuse("report", copy)


@pytest.mark.filterwarnings("error")
def test_the_picture_of_any_names(folder: Path, tmp_path: Path) -> None:
    assert plot_confusion(tmp_path / "confusion.png", verdict_of(folder)).read_bytes().startswith(b"\x89PNG")
    many = {"confusion": np.eye(500, dtype=int).tolist(), "classes": [{"name": str(i)} for i in range(500)]}
    assert plot_confusion(tmp_path / "many.png", many).stat().st_size < 200_000


def test_no_part_of_the_page_is_outside_the_screen(folder: Path, browser: Any) -> None:  # noqa: F811
    browser.get((folder / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= browser.asked
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('script, svg') && "
        "e.getBoundingClientRect().right > arguments[0] + 1).map(e => e.outerHTML.slice(0, 80))",
        browser.asked,
    )
    assert outside == []
    verdict = verdict_of(folder)
    shots = browser.find_elements("css selector", ".shots img")
    assert [shot.get_attribute("alt") for shot in shots] == [row["image"] for row in verdict["mistakes"]]
    assert all(shot.get_property("naturalWidth") == 8 for shot in shots)
    labels = [node.text for node in browser.find_elements("css selector", ".drawn text")]
    assert "日本" in labels
    assert "<b>cat</b>" in labels
    assert len(browser.find_elements("css selector", "[data-curve] polyline")) == 2
    assert browser.get_log("browser") == []
