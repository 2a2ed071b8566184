"""nshot search --method own: the answer of the training method, and where there is none."""

import json
from pathlib import Path

from helpers import nshot_, refuse
from nshot.supernets.load import load_run

SMOKE = ("--preset", "smoke", "--epochs", "1")


def test_a_method_s_own_search_is_written_like_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert nshot_("train", "random", *SMOKE, "--out", run)[0] == 0
    status, _, err = nshot_("search", run, "--method", "own")
    assert status == 0, err
    found = json.loads((run / "search.json").read_text())
    assert found["search"] == {"method": "own"}
    assert found["candidates"] == len(found["top"]) == 1
    limited = refuse("search", run, "--method", "own", "--max-params", "1", "--name", "x")
    assert "no subnet (the one answer of random) keeps to max params 1" in limited
    answer = (3, 3, 1, 3, 2, 1)
    (run / "answer.json").write_text(json.dumps({"subnet": answer}))  # as of a method whose training ends with one
    assert nshot_("search", run, "--method", "own", "--name", "ended")[0] == 0
    found = json.loads((run / "ended.json").read_text())
    assert found["best"]["subnet"] == list(load_run(run)[1].canonical(answer))


def test_a_method_without_an_answer_says_so(tmp_path: Path) -> None:
    assert nshot_("train", "spos", *SMOKE, "--out", tmp_path / "run")[0] == 0
    said = refuse("search", tmp_path / "run", "--method", "own")
    assert "method own: spos has no answer of its own, choose random, exhaustive, evolution or nsga2" in said
    assert not (tmp_path / "run" / "search.json").exists()
