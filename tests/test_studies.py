"""Studies at smoke scale: every table runs, shared runs are done once, failures are marked, wrong requests refused."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nshot
from helpers import nshot_, refuse
from nshot import UserError
from nshot.benchmarks.table import read_benchmark
from nshot.files import read_json
from nshot.runs.where import On
from nshot.studies import runner
from nshot.studies.base import SCALES, Measured, Row, Setting, Study, studies
from nshot.studies.collect import Known, collect
from nshot.studies.figure_c import drawn
from nshot.studies.plot import draw
from nshot.studies.runner import PROTOCOL, Job, is_done, jobs_of, run_jobs
from nshot.studies.searched import limited, retrained
from nshot.studies.summary import markdown
from nshot.supernets.config import TrainConfig

SMOKE = SCALES["smoke"]
ALL = [studies[name] for name in studies.names()]
TABLES = ["figure-a", "figure-b", *(f"table-{letter}" for letter in "abcdefghijklm")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All tables, one seed, run by the command line."""
    folder = tmp_path_factory.mktemp("studies")
    status, out, _ = command(folder)
    assert status == 0
    assert "0 of" in out
    return folder


def command(folder: Path, *args: str, name: str = "all") -> tuple[int, str, str]:
    base = ["--preset", "smoke", "--seeds", "1", "--runs", folder / "runs", "--out", folder / "out"]
    return nshot_("study", name, *base, *args)


def test_every_table_is_written(folder: Path) -> None:
    assert set(TABLES) <= set(studies.names())
    for name in TABLES:
        result = read_json(folder / "out" / f"{name}-smoke.json")
        assert [row["label"] for row in result["rows"]] == [row.label for row in studies[name].rows]
        assert all(row["seeds"].keys() == {"0"} and not row["failed"] for row in result["rows"])
        text = (folder / "out" / f"{name}-smoke.md").read_text()
        assert [line.split(" | ")[0][2:] for line in table_of(text)] == [row.label for row in studies[name].rows]
        assert (folder / "out" / f"{name}-smoke.png").read_bytes().startswith(b"\x89PNG")


def table_of(text: str) -> list[str]:
    """Lines of the first table, without head and citations."""
    head = next(line for line in text.splitlines() if line.startswith("| row | paper"))
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [line for line in lines if "not run here" not in line]


@pytest.mark.parametrize("name", TABLES)
def test_tables_and_pictures_show_the_figures(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number of the text is the JSON's to its last digit; each figure that the picture is of is drawn."""
    result = read_json(folder / "out" / f"{name}-smoke.json")
    text = (folder / "out" / f"{name}-smoke.md").read_text()
    head = next(line for line in text.splitlines() if line.startswith("| row | paper")).strip("| ").split(" | ")
    for row, line in zip(result["rows"], table_of(text), strict=True):
        cells = dict(zip(head, line.strip("| ").split(" | "), strict=True))
        assert cells["seeds"] == "1"
        figures = {key: value for key, value in row["seeds"]["0"].items() if key in cells and value is not None}
        assert figures or "curve" in row["seeds"]["0"]
        for column, value in figures.items():
            assert float(cells[column].split(" ± ")[0]) == pytest.approx(value, rel=5e-3, abs=5e-4)
    drawn_values = values_drawn(result, monkeypatch)
    for figures in (row["seeds"]["0"] for row in result["rows"]):
        if "curve" in figures:
            wanted = figures["curve"]
        elif result.get("axes"):
            wanted = [figures[axis] for axis in result["axes"]]
        elif len(result["rows"]) == 1:
            wanted = list(figures.values())
        else:
            wanted = [value for value in list(figures.values())[:1] if value is not None]
        assert {round(value, 9) for value in wanted} <= drawn_values


def values_drawn(result: dict, monkeypatch: pytest.MonkeyPatch) -> set[float]:
    """All coordinates of the picture's lines."""
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **given: kept.append(self))
    monkeypatch.setattr("nshot.files.write_atomically", lambda path, data: None)
    draw(Path("unwritten.png"), result)
    found = {float(z) for line in kept[0].axes[0].lines for xy in line.get_xydata().tolist() for z in xy}
    return {round(value, 9) for value in found}


def test_runs_are_shared(folder: Path) -> None:
    rows = sum(len(study.rows) for study in ALL)
    runs = {path.name for path in (folder / "runs" / "smoke").iterdir()}
    jobs = jobs_of(ALL, SMOKE, 1)
    assert len(jobs) < rows
    assert set(jobs) <= runs
    assert runs - set(jobs) < {job.supernet for job in jobs.values() if job.measured}  # of supernets only searched
    settings = {
        repr(
            (
                *(s.strategy, sorted(s.options.items()), sorted(s.config.items()), s.space),
                *(getattr(s, "function", None), getattr(s, "arguments", None)),
            )
        )
        for s in (row.setting for study in ALL for row in study.rows)
    }
    assert len(jobs) == len(settings)


def test_one_row_has_one_figure_everywhere(folder: Path) -> None:
    """SPOS is a row of tables F, J and K."""
    figures = []
    for name, label in (("table-f", "SPOS"), ("table-j", "SPOS, β = 0.9"), ("table-k", "SPOS")):
        rows = read_json(folder / "out" / f"{name}-smoke.json")["rows"]
        figures.append(next(row["seeds"]["0"] for row in rows if row["label"] == label))
    assert figures[0] == figures[1] == figures[2]


def test_a_table_of_common_seeds_has_no_ceiling(folder: Path) -> None:
    """As digits; of others `test_ceiling.py` says it."""
    results = [read_json(path) for path in (folder / "out").glob("*.json")]
    assert len(results) == len(ALL)
    assert all("ceiling" not in result for result in results)


def test_what_a_method_itself_answers_has_its_true_accuracy(folder: Path) -> None:
    """Also where its supernet ranks nothing; of a subnet that the benchmark lacks, that of an equal one or none."""
    result = json.loads((folder / "out" / "table-a-smoke.json").read_text())
    rows = {row["label"]: row["seeds"]["0"] for row in result["rows"]}
    by_alpha = {"DARTS", "DARTS, second order", "GDAS"}
    has = {label for label, figures in rows.items() if "own (%)" in figures}
    assert has == {"random", "NSAS", "Cream"} | by_alpha
    assert {label for label, figures in rows.items() if "rank" not in figures} == by_alpha
    known = 0
    for row in studies["table-a"].rows:
        job = Job.of(row.setting, SMOKE, 0)
        measured = json.loads((folder / "runs" / "smoke" / job.folder / "measured.json").read_text())
        assert ("own" in measured) == (row.label in has)
        if row.label in has:
            own, benchmark = job.config.space, read_benchmark("digits", job.config.space)
            form = own.canonical(own.parse(measured["own"]))
            true = dict(zip(benchmark.subnets, benchmark.columns["digits_test"], strict=True))
            same = {subnet: value for subnet, value in true.items() if own.canonical(subnet) == form}
            assert rows[row.label]["own (%)"] == same.get(form, next(iter(same.values()), None))
            known += bool(same)
    assert known


def test_few_shot_search_retrains_the_best_of_each_part(folder: Path) -> None:
    job = Job.of(studies["table-h"].rows[-2].setting, SMOKE, 0)
    run, supernet = (folder / "runs" / "smoke" / name for name in (job.folder, job.supernet))
    found = read_json(supernet / "study.json")["parts"]
    assert not (supernet / "search.json").exists()  # a name that is its user's
    summary = read_json(run / "retrained" / "result.json")
    retrained = [read_json(run / "retrained" / f"part-{i}" / "result.json") for i in range(len(found))]
    assert [result["arch"] for result in retrained] == [part["arch"] for part in found]
    assert len({part["arch"][1:15] for part in found}) == len(found) > 1  # parts differ in the first edge
    figures = read_json(run / "measured.json")
    assert figures["retrained, test (%)"] == max(result["test_accuracy"] for result in retrained)
    assert figures["subnet"] == summary["subnet"]


def test_both_schedules_of_table_h_retrain_the_same_subnet(folder: Path) -> None:
    rows = studies["table-h"].rows
    for cosine, calr in zip(rows[::2], rows[1::2], strict=True):
        jobs = [Job.of(row.setting, SMOKE, 0) for row in (cosine, calr)]
        assert jobs[0].supernet == jobs[1].supernet
        folders = [folder / "runs" / "smoke" / job.folder for job in jobs]
        found = [read_json(each / "measured.json")["subnet"] for each in folders]
        assert found[0] == found[1]
        schedules = [
            json.loads(next((each / "retrained").rglob("config.json")).read_text())["config"]["recipe"]["schedule"]
            for each in folders
        ]
        assert schedules == ["cosine", "calr"]


def test_a_supernet_is_trained_once_for_its_ranking_and_its_searches(folder: Path) -> None:
    runs = folder / "runs" / "smoke"
    jobs = jobs_of(ALL, SMOKE, 1).values()
    searches = [job for job in jobs if (runs / job.folder / "retrained").exists()]
    assert len(searches) > len({job.supernet for job in searches}) > 1
    for job in searches:
        inside = {path.name for path in (runs / job.folder).iterdir()}
        assert inside == {"retrained", "measured.json"}  # no training of a supernet
        assert list((runs / job.supernet).rglob("supernet.safetensors"))


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    status, out, _ = command(folder)
    assert status == 0
    assert re.search(r"(\d+) of \1 runs are done\n", out)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


def test_a_killed_study_continues(folder: Path, tmp_path: Path) -> None:
    """What is missing is run, and comes out the same."""
    name = "table-k"
    assert command(tmp_path, name=name)[0] == 0
    text = (tmp_path / "out" / f"{name}-smoke.json").read_text()
    victim = next((tmp_path / "runs" / "smoke").glob("spos-*/sample40-256-*.json"))
    victim.unlink()
    shutil.rmtree(tmp_path / "out")
    status, out, _ = command(tmp_path, name=name)
    assert status == 0
    assert "13 of 14 runs are done, 1 to do" in out
    assert (tmp_path / "out" / f"{name}-smoke.json").read_text() == text
    assert text == (folder / "out" / f"{name}-smoke.json").read_text()


@pytest.mark.parametrize("name", ["table-d", "table-k"])
def test_a_table_goes_on_where_its_runs_are_gone(name: str, folder: Path, tmp_path: Path) -> None:
    """Figures that were written stay, and only what is missing of them is run."""
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / f"{name}-smoke.json"
    result = read_json(path)
    lost = result["rows"][0]["seeds"].pop("0")
    path.write_text(json.dumps(result))
    status, out, _ = command(tmp_path, name=name)
    assert status == 0
    assert "0 of 1 runs are done, 1 to do" in out
    rows = read_json(path)["rows"]
    assert rows[0]["seeds"]["0"] == lost
    assert rows[1:] == result["rows"][1:]


@pytest.mark.parametrize("text", ["{", '{"rows": [{"seeds": {"0": {}}}]}'])
def test_a_result_that_cannot_be_read_is_refused_before_any_run(text: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "table-k-smoke.json"
    path.parent.mkdir()
    path.write_text(text)
    error = refuse("study", "table-k", "--preset", "smoke", "--runs", tmp_path / "runs", "--out", path.parent)
    assert f"{path} is no result of this version" in error
    assert not (tmp_path / "runs").exists()
    assert path.read_text() == text


def test_figures_of_another_configuration_are_not_taken_over(folder: Path) -> None:
    before = Known.of(studies["table-k"], SMOKE, folder / "out")
    other = replace(SMOKE, overrides=SMOKE.overrides | {"lr": 0.02})
    assert jobs_of([studies["table-k"]], SMOKE, 1, {"table-k": before.figures}) == {}
    assert len(jobs_of([studies["table-k"]], other, 1, {"table-k": before.figures})) == 14


SCALED = {
    "candidates": 5, "images": 200, "retrain_epochs": 2, "benchmark": "other.parquet", "sample": 50,
    "subnets": Path("released:list.json"),
}  # fmt: skip


@pytest.mark.parametrize("change", SCALED)
def test_figures_of_another_scale_are_not_taken_over(change: str, folder: Path) -> None:
    """Neither what a run's folder has nor what a table has."""
    other = replace(SMOKE, **{change: SCALED[change]})
    ranked = change not in ("candidates", "retrain_epochs")  # those make no ranking another
    for name in ("table-a", "table-b", "table-h", "table-k") if ranked else ("table-a", "table-b", "table-h"):
        known = Known.of(studies[name], SMOKE, folder / "out").figures
        before = jobs_of([studies[name]], SMOKE, 1)
        assert {job.name for job in before.values()} == set(known)
        jobs = jobs_of([studies[name]], other, 1, {name: known})
        assert len(jobs) == len(before)
        assert not any(is_done(folder / "runs" / "smoke" / job.folder, job) for job in jobs.values())


def test_lists_of_one_name_in_two_places_make_two_rankings() -> None:
    lists = [Path(f"released:{place}/list.json") for place in "ab"] + [Path("nats:a/list.json")]
    jobs = [Job.of(Setting("spos"), replace(SMOKE, subnets=each), 0) for each in lists]
    assert len({job.result for job in jobs}) == 3
    assert len({job.folder for job in jobs}) == 1  # of one training


def test_figures_of_another_protocol_are_not_taken_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> list[str]:
        return sorted({name for job in jobs_of(ALL, SMOKE, 1).values() for name in (job.folder, job.supernet)})

    before = names()
    monkeypatch.setattr(runner, "PROTOCOL", PROTOCOL + 1)
    assert len(names()) == len(before)
    assert not set(names()) & set(before)
    shutil.copytree(folder / "out", tmp_path / "out")
    shutil.copytree(folder / "runs", tmp_path / "runs")
    status, out, _ = command(tmp_path, "--collect", name="table-k")
    assert status == 0
    assert f"table-k: 14 runs in {tmp_path / 'out'} are of other settings or an earlier version, and left out" in out
    rows = read_json(tmp_path / "out" / "table-k-smoke.json")["rows"]
    assert all(row["seeds"] == {} and row["missing seeds"] == [0] for row in rows)


def test_first_seeds_come_first() -> None:
    seeds = [job.config.seed for job in jobs_of(ALL, SMOKE, 3).values()]
    assert seeds == sorted(seeds)
    assert set(seeds) == {0, 1, 2}


def test_a_diverging_run_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    wild = Setting("spos", config={"lr": 1e30, "clip": None})
    study = Study("wild", "a title", (Row("wild", wild, (0.5, 0.1)), Row("tame", Setting("spos"))))
    said: list[str] = []
    run_jobs(jobs_of([study], SMOKE, 1), tmp_path, on=On(jobs=1), say=said.append)
    assert any(re.search(r"failed: the loss is (nan|inf) at step \d+", line) for line in said)
    rows = collect(study, SMOKE, 1, tmp_path)["rows"]
    assert "at step" in rows[0]["failed"]["0"]
    assert rows[0]["seeds"] == {}
    assert rows[1]["seeds"]["0"].keys() >= {"tau by accuracy", "tau by loss"}
    assert f"| wild | 0.500 ± 0.100 | {' | '.join(8 * '-')} | 0, 1 failed |" in markdown(
        collect(study, SMOKE, 1, tmp_path)
    )
    said.clear()
    run_jobs(jobs_of([study], SMOKE, 1), tmp_path, on=On(jobs=1), say=said.append)
    assert said == ["2 of 2 runs are done"]


def test_a_supernet_that_diverges_is_trained_once(tmp_path: Path) -> None:
    """Whoever else needs it has failed with it."""
    wild = {"lr": 1e30, "clip": None}
    settings = [Measured("spos", config=wild, function=retrained), Measured("spos", config=wild, function=limited)]
    rows = [Row(setting.function.__name__, setting) for setting in settings]
    said: list[str] = []
    run_jobs(jobs_of([Study("wild", "a title", tuple(rows))], SMOKE, 1), tmp_path, on=On(jobs=1), say=said.append)
    assert re.search(r"^retrained-\w+ failed: the loss is (nan|inf) at step \d+", said[1])
    assert re.search(r"^limited-\w+ failed with spos-\w+$", said[2])
    assert [len(row["failed"]) for row in collect(Study("wild", "", tuple(rows)), SMOKE, 1, tmp_path)["rows"]] == [1, 1]
    logs = [path.parent.name for path in tmp_path.rglob("log.jsonl")]
    assert len(logs) == 1
    assert logs[0].startswith("spos-")


@pytest.mark.parametrize("name", sorted({*nshot.list_spaces()} - {"nasbench201"}))
def test_a_run_is_named_by_what_differs_from_the_defaults_of_its_space(name: str) -> None:
    """So that its figures are found by a version whose space has one more size."""
    said = f'{{"protocol": {PROTOCOL}, "space": {{"name": "{name}"}}}}'
    digest = hashlib.sha256(said.encode()).hexdigest()
    job = Job(TrainConfig(space=nshot.space(name)), SMOKE)
    assert job.folder == f"spos-{digest[:12]}"
    other = replace(job, config=replace(job.config, space=nshot.space(name, resolution=64)))
    assert other.folder != job.folder


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["table-z"], "unknown study 'table-z': choose one of figure-a, figure-b, table-a"),
        (["table-j", "--jobs", "0"], "jobs 0: must be at least 1"),
        (["table-j", "--jobs", "1000"], "jobs 1000: this machine has"),
        (["table-j", "--seeds", "0"], "seeds 0"),
        (["table-j", "--preset", "huge"], "preset 'huge': choose one of paper, deep, long, proxy, smoke"),
        (["table-j", "--preset", "proxy"], "benchmark 'nasbench201' not found at"),
        (["table-j", "--only", "AutoFormer"], "only 'AutoFormer': no row"),
        (["table-j", "--out", "{root}/file/out"], "root/file is a file): choose another"),
        (["figure-c", "--out", "{root}/file"], "root/file is a file): choose another"),
        (["table-j", "--runs", "{root}/file"], "root/file is a file): choose another"),
    ],
)
def test_an_impossible_request_starts_nothing(args: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").touch()
    args = [arg.format(root=tmp_path / "root") for arg in args]
    preset = [] if "--preset" in args else ["--preset", "smoke"]
    places = ["--runs", tmp_path / "runs", "--out", tmp_path / "out", "--data-root", tmp_path / "root"]
    assert expected in refuse("study", args[0], *preset, *places, *args[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_setting_that_cannot_be_is_an_error() -> None:
    with pytest.raises(UserError, match="has no effect"):
        Setting("spos", {"gamma": 3.0}).at(SMOKE, 0)


def test_what_is_there_is_collected_without_running(folder: Path, tmp_path: Path) -> None:
    status, out, _ = nshot_(
        "study", "table-j", "--preset", "smoke", "--runs", folder / "runs", "--out", tmp_path, "--collect"
    )
    assert status == 0
    assert "to do" not in out
    rows = read_json(tmp_path / "table-j-smoke.json")["rows"]
    assert all(row["missing seeds"] == [1, 2] for row in rows)  # three seeds are asked for, one is there


def test_figure_c_is_drawn(tmp_path: Path) -> None:
    """γ falls from 4 to 1/4, by the logarithm, the value or its exponential; below it every subnet is counted."""
    status, _, _ = nshot_("study", "figure-c", "--out", tmp_path)
    assert status == 0
    assert (tmp_path / "figure-c.png").read_bytes().startswith(b"\x89PNG")
    top, bottom = drawn(nshot.space("nasbench201")).axes
    low, high = 72_752, 1_524_272
    scales = {"g = log": np.log, "g = linear": np.asarray, "g = exp": lambda c: np.exp(c / high)}
    curves = {line.get_label(): line.get_xydata() for line in top.lines if line.get_label() in scales}
    assert curves.keys() == scales.keys()
    for label, scale in scales.items():
        millions, gamma = curves[label].T
        assert [millions[0], millions[-1]] == pytest.approx([low / 1e6, high / 1e6])
        expected = np.interp(scale(1e6 * millions), scale(np.array([low, high])), [4, 1 / 4])
        assert gamma == pytest.approx(expected, rel=1e-6)
    assert sum(bar.get_height() for bar in bottom.patches) == 15_625
