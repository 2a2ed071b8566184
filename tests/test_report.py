"""nshot report: the page of a real run, read as text and, where there is one, in headless Chromium."""

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import nshot
from helpers import SMALL, nshot_, refuse
from nshot.data.sources import load
from nshot.files import read_json
from nshot.flags import parse, take_space
from nshot.networks.retrain import RetrainConfig
from nshot.report.draw import svg
from nshot.report.run_data import DRAWN, SHOWN, fronts, retrain_flags, some
from nshot.runs.log import read_log
from nshot.supernets.config import TrainConfig, from_dict, preset, to_dict
from nshot.supernets.load import load_run
from nshot.supernets.train import train

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
LIMIT = 20_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of digits, ranked and searched."""
    config = dataclasses.replace(preset("smoke"), epochs=3)
    folder = train(config, load("digits", resolution=8), tmp_path_factory.mktemp("report") / "run <1>", device="cpu")
    assert nshot_("rank", folder, "--benchmark", "digits", "--sample", "40", "--device", "cpu")[0] == 0
    flags = ["--method", "nsga2", "--population", "10", "--generations", "4", "--max-params", str(LIMIT)]
    assert nshot_("search", folder, *flags, "--device", "cpu")[0] == 0
    assert nshot_("report", folder) == (0, f"written: {folder / 'report.html'}\n", "")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FSNAS in two parts, neither ranked nor searched."""
    folder = tmp_path_factory.mktemp("report") / "bare"
    args = ["fsnas", "--preset", "smoke", "--epochs", "1", "--device", "cpu"]
    assert nshot_("train", *args, "--out", folder)[0] == 0
    return folder


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_page_says_what_was_run_and_needs_no_network(run: Path) -> None:
    page = (run / "report.html").read_text()
    stored = read_json(run / "config.json")
    assert "<h1>run &lt;1&gt;</h1>" in page
    for name, version in stored["versions"].items():
        assert f"{name} {version}" in page
    for key in ("epochs", "batch_size", "lr", "seed", "weight_decay"):
        assert f"<dt>{key}</dt><dd>{stored['config'][key]}</dd>" in page
    for key, value in stored["config"]["augment"].items():
        assert f"<dt>{key}</dt><dd>{value}</dd>" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert set(re.findall(r"https?://[^\"\\ ]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(page) < 4_000_000


def test_curves_and_rankings_are_the_runs(run: Path) -> None:
    data = data_of(run / "report.html")
    log = read_log(run / "log.jsonl")
    assert data["curves"]["loss"] == [[run.name, [[line["step"], line["loss"]] for line in log]]]
    assert data["curves"]["lr"] == [[run.name, [[line["step"], line["lr"]] for line in log]]]
    rows = pq.read_table(run / "ranking.parquet").to_pylist()
    (ranking,) = data["rankings"]
    assert len(ranking["points"]) == len(rows) == 40
    inside = [p for p in ranking["points"] if any(p == [round(r["accuracy"], 3), round(r["true"], 3)] for r in rows)]
    assert len(inside) >= 38  # others lie on the border
    tau = read_json(run / "ranking.json")["metrics"]["accuracy"]["tau"]
    assert f"<td>{tau:.3f}</td>" in (run / "report.html").read_text()


def test_a_ranking_says_its_ceiling_where_it_has_one(run: Path, tmp_path: Path) -> None:
    text = "ceiling 0.95: as far as a network agrees with itself (1,278 subnets have twins)"
    assert "ceiling" not in (run / "report.html").read_text()
    folder, page = tmp_path / "run", tmp_path / "page.html"
    shutil.copytree(run, folder)
    summary = read_json(folder / "ranking.json")
    assert summary["ceiling"] is None
    for known, told in (({"tau": 0.951, "subnets": 1278}, text), (None, None)):
        (folder / "ranking.json").write_text(json.dumps({**summary, "ceiling": known}))
        assert nshot_("report", folder, "--out", page)[0] == 0
        assert (text in page.read_text()) == (told is not None)
    (folder / "ranking.json").write_text(json.dumps({**summary, "ceiling": {"tau": 0.5}}))
    assert "ranking.parquet is no ranking" in refuse("report", folder)


def test_search_shows_all_that_was_evaluated_and_its_front(run: Path) -> None:
    config, supernet = load_run(run)
    space, search = config.space, data_of(run / "report.html")["search"]
    found = read_json(run / "search.json")
    rows = search["rows"]
    assert rows[search["best"]]["arch"] == found["best"]["arch"]
    subnets = [space.parse(row["arch"]) for row in rows]
    for subnet, row in zip(subnets, rows, strict=True):
        assert sum(p.numel() for p in space.network(subnet).parameters()) == row["params"] <= LIMIT
        assert space.flops(subnet) == row["flops"]
    (archive,) = run.glob(".search-*.jsonl")
    evaluated = {tuple(line["subnet"]): line["figures"] for line in read_log(archive)}
    assert {supernet.canonical(subnet) for subnet in subnets} == set(evaluated)
    for subnet, row in zip(subnets, rows, strict=True):
        assert [row["accuracy"], row["loss"]] == evaluated[supernet.canonical(subnet)]
    for cost in ("params", "flops"):
        front = search["fronts"][cost]
        for i, row in enumerate(rows):  # by brute force: each is matched by one of the front, and beats none of it
            assert any(rows[j]["accuracy"] >= row["accuracy"] and rows[j][cost] <= row[cost] for j in front)
            for j in set(front) - {i}:
                assert not (row["accuracy"] > rows[j]["accuracy"] and row[cost] <= rows[j][cost])
        costs = [(rows[j][cost], rows[j]["accuracy"]) for j in front]
        assert costs == sorted(set(costs))
    drawn = search["drawings"]
    assert {0, *search["fronts"]["params"], *search["fronts"]["flops"]} <= set(map(int, drawn))
    for i in list(drawn)[:3]:
        assert drawn[i] == svg(space.drawing(subnets[int(i)]), width=460)


def test_fronts_of_equal_rows_have_the_one_of_the_smallest_loss() -> None:
    rows = [{"accuracy": a, "loss": loss, "params": p, "flops": p} for a, loss, p in
            [(50.0, 2.0, 10), (50.0, 1.0, 10), (40.0, 0.5, 10), (60.0, 3.0, 20), (55.0, 0.1, 30)]]  # fmt: skip
    assert fronts(rows) == {"params": [1, 3], "flops": [1, 3]}


def test_long_lists_are_thinned_evenly() -> None:
    assert some(list(range(SHOWN))) == list(range(SHOWN))
    thinned = some(list(range(10 * SHOWN)))
    assert len(thinned) == SHOWN
    assert (thinned[0], thinned[-1]) == (0, 10 * SHOWN - 1)
    assert np.diff(thinned).max() <= 11
    assert DRAWN < SHOWN


def test_what_a_run_does_not_have_is_said_with_its_command(bare: Path, tmp_path: Path) -> None:
    status, out, _ = nshot_("report", bare, "--out", tmp_path / "new" / "page.html")
    assert (status, out) == (0, f"written: {tmp_path / 'new' / 'page.html'}\n")
    page = (tmp_path / "new" / "page.html").read_text()
    assert f"<pre>nshot rank {bare} --benchmark digits</pre>" in page
    assert f"<pre>nshot search {bare}</pre>" in page
    assert "not finished" not in page
    lines = data_of(tmp_path / "new" / "page.html")["curves"]["loss"]
    assert [name for name, _ in lines] == [path.name for path in sorted(bare.glob("part-*"))]
    assert nshot_("search", bare, "--sample", "20", "--device", "cpu")[0] == 0
    assert nshot_("report", bare)[0] == 0
    assert len(data_of(bare / "report.html")["search"]["rows"]) == 20


def test_report_of_an_unfinished_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    shutil.copy(run / "config.json", tmp_path / "half")
    assert nshot_("report", tmp_path / "half")[0] == 0
    page = (tmp_path / "half" / "report.html").read_text()
    assert "The training is not finished" in page
    assert f"nshot train spos --out {tmp_path / 'half'}" in page


def test_what_cannot_be_reported(run: Path, tmp_path: Path) -> None:
    assert "FOLDER: what nshot train or nshot retrain made" in refuse("report")
    assert "is no run folder" in refuse("report", tmp_path / "none")
    assert "is no run folder" in refuse("report", tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text(json.dumps({"kind": "benchmark", "config": {}}))
    assert "holds a benchmark run" in refuse("report", tmp_path)
    shutil.copy(run / "config.json", tmp_path)
    broken = read_json(run / "search.json")
    del broken["top"][-1]["flops"]
    for content in ("", "[]", "{}", '{"best": {}, "top": []}', json.dumps(broken)):
        (tmp_path / "search.json").write_text(content)
        assert "search.json is no search result" in refuse("report", tmp_path)
    (tmp_path / "search.json").unlink()
    (tmp_path / "ranking.parquet").write_bytes(b"no table")
    assert "ranking.parquet has lost its ranking.json" in refuse("report", tmp_path)
    shutil.copy(run / "ranking.parquet", tmp_path)
    (tmp_path / "ranking.json").write_text("{}")
    assert "ranking.parquet is no ranking" in refuse("report", tmp_path)
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").write_text("")
    assert "choose another file" in refuse("report", run, "--out", tmp_path / "file" / "page.html")


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_flags_give_retraining_the_runs_sizes(name: str) -> None:
    sizes = [SMALL[name], {}, *([{"relative": False}] if name == "autoformer" else [])]
    for each in sizes:
        space = nshot.space(name, **each)
        said = retrain_flags(TrainConfig(space=space, dataset="digits"))
        flags = shlex.split(said)
        default = take_space(flags, RetrainConfig())
        default = dataclasses.replace(default, space=default.space.retrained)  # as the command line has it

        @dataclasses.dataclass(frozen=True)
        class Command:
            config: RetrainConfig = dataclasses.field(default_factory=lambda default=default: default)

        config = parse(Command, flags, "retrain", "").config
        assert config.space.with_classes(10) == space.retrained.with_classes(10)
        assert config.dataset == "digits"
        stored = json.loads(json.dumps(to_dict(TrainConfig(space=space, dataset="digits"))))  # as the page has it
        assert retrain_flags(from_dict(stored)) == said


# in a browser


@pytest.fixture(params=[1280, 390])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": request.param < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.asked = request.param  # a phone's window.innerWidth grows with a page that is too wide
    yield driver
    driver.quit()


def click(driver: Any, row: int) -> None:
    """A real click where the point is."""
    point = driver.find_element("css selector", f'#plot [data-row="{row}"]')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    box = driver.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width]", point)
    where = {"x": box[0] + box[2] / 2, "y": box[1] + box[2] / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **where})


def shown(driver: Any, name: str) -> str:
    return driver.find_element("id", name).text


def test_a_click_shows_the_subnet(run: Path, browser: Any, tmp_path: Path) -> None:
    browser.get((run / "report.html").as_uri())
    search = data_of(run / "report.html")["search"]
    rows = search["rows"]
    assert shown(browser, "arch") == rows[0]["arch"]
    places = [(row["params"], row["accuracy"]) for row in rows]
    alone = [i for i, place in enumerate(places) if places.count(place) == 1 and str(i) in search["drawings"]]
    far = max(alone, key=lambda i: min(np.hypot((rows[i]["params"] - p) / 2e4, (rows[i]["accuracy"] - a) / 100)
                                       for j, (p, a) in enumerate(places) if j != i))  # fmt: skip
    click(browser, far)
    assert shown(browser, "arch") == rows[far]["arch"]
    assert shown(browser, "params") == f"{rows[far]['params']:,}"
    assert shown(browser, "accuracy") == f"{rows[far]['accuracy']:.2f} %"
    drawn = browser.find_element("css selector", "#drawing svg")
    labels = re.findall(r">([^<>]+)</text>", search["drawings"][str(far)])
    assert [node.text for node in drawn.find_elements("css selector", "text")] == labels
    assert drawn.size["width"] > 300
    command, export = shown(browser, "commands").replace("\n", " ").split(" nshot export ")
    words = shlex.split(command)[1:-1]
    words[words.index(rows[far]["arch"])]  # one word, quoted
    assert nshot_(*words, tmp_path / "new", "--epochs", "1", "--device", "cpu")[0] == 0
    assert read_json(tmp_path / "new" / "result.json")["params"] == rows[far]["params"]
    assert nshot_("export", tmp_path / "new", *export.split()[1:-1], tmp_path / "out")[0] == 0
    assert browser.get_log("browser") == []


def test_the_other_cost_hovering_and_the_table(run: Path, browser: Any) -> None:
    browser.get((run / "report.html").as_uri())
    search = data_of(run / "report.html")["search"]
    browser.find_element("css selector", "[data-cost=flops]").click()
    assert browser.find_element("css selector", "[data-cost=flops]").get_attribute("aria-pressed") == "true"
    assert "FLOPs" in browser.find_element("css selector", "#plot svg").get_attribute("aria-label")
    assert len(browser.find_elements("css selector", "#plot .front")) == len(search["fronts"]["flops"])
    for button in browser.find_elements("css selector", "[data-show]"):
        button.click()
        assert shown(browser, "arch") == search["rows"][int(button.get_attribute("data-show"))]["arch"]
    assert len(browser.find_elements("css selector", "[data-ranking] circle")) == 40
    assert len(browser.find_elements("css selector", "[data-curve] polyline")) == 2
    assert browser.get_log("browser") == []


def test_no_page_scrolls_sideways(run: Path, bare: Path, browser: Any, tmp_path: Path) -> None:
    assert nshot_("report", bare, "--out", tmp_path / "bare.html")[0] == 0
    for page in (run / "report.html", tmp_path / "bare.html"):
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= browser.asked
        outside = browser.execute_script(
            "return [...document.querySelectorAll('body *')].filter(e => !e.closest('script') && "
            "e.getBoundingClientRect().right > arguments[0] + 1).map(e => e.outerHTML.slice(0, 80))",
            browser.asked,
        )
        assert outside == []
        assert browser.get_log("browser") == []


def test_a_search_that_has_lost_its_json_is_told_by_its_name(tmp_path: Path) -> None:
    """It is no ranking; what makes it again is told."""
    run = tmp_path / "run"
    args = ["--device", "cpu"]
    assert nshot_("train", "spos", "--preset", "smoke", "--epochs", "1", "--out", run, *args)[0] == 0
    assert nshot_("search", run, "--name", "evolved", "--sample", "3", "--images", "100", *args)[0] == 0
    (run / "evolved.json").unlink()
    said = refuse("report", run)
    assert (
        "evolved.parquet has lost its evolved.json: make it again by its name, with nshot rank or nshot search" in said
    )
    assert "--name evolved, or take the file away" in said
