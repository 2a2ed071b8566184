"""What studies say over seeds: scipy's own t-tests give the same intervals; below three seeds values stand alone."""

import numpy as np
import pytest
from scipy import stats

from nshot.studies.base import Row, Setting, Study, studies
from nshot.studies.summary import markdown, summarize

SPOS = Setting("spos")


def result(rows: dict[str, dict[str, dict]], study: Study | None = None, **against: tuple[str, ...]) -> dict:
    """The result of a study with these figures by row and seed, as collected."""
    study = study or Study("s", "t", tuple(Row(label, SPOS, (0.7, 0.01), against.get(label, ())) for label in rows))
    found = [
        {
            "label": row.label,
            "paper": row.paper,
            "seeds": rows.get(row.label, {}),
            "runs": {},
            "missing seeds": [],
            "failed": {},
        }
        for row in study.rows
    ]
    return summarize(study, {"study": "s", "title": "t", "preset": "smoke", "note": "a note", "rows": found})


def seeds(values: list[float | None], column: str = "tau by accuracy", start: int = 0) -> dict[str, dict]:
    return {str(seed): {column: value} for seed, value in enumerate(values, start)}


def lines(text: str, label: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {label} |")]


def test_a_mean_has_the_t_interval_of_its_seeds() -> None:
    values = [0.41, 0.52, 0.47, 0.60]
    found = result({"a": seeds(values)})
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean = found["rows"][0]["means"]["tau by accuracy"]
    assert (mean["mean"], mean["low"], mean["high"]) == pytest.approx((np.mean(values), low, high))
    assert lines(markdown(found), "a") == [f"| a | 0.700 ± 0.010 | 0.500 ± {(high - low) / 2:.3f} | 4 |"]


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.6], [0.4, None, 0.6]])
def test_below_three_seeds_there_are_values_alone(values: list[float | None]) -> None:
    found = result({"a": seeds(values), "b": seeds(values)}, b=("a",))
    assert found["rows"][0]["means"]["tau by accuracy"]["low"] is None
    numbers = ", ".join(f"{value:.3f}" for value in values if value is not None)
    assert lines(markdown(found), "a") == [f"| a | 0.700 ± 0.010 | {numbers} | {len(values)} |"]
    (change,) = lines(markdown(found), "b")[1:]
    assert change == "| b | a | tau by accuracy | +0.000 | none below 3 seeds |  |"


def test_rows_of_common_seeds_are_paired() -> None:
    a, b = [0.41, 0.52, 0.47, 0.60], [0.45, 0.55, 0.52, 0.64]
    found = result({"a": seeds(a), "b": seeds(b)}, b=("a",))
    (change,) = found["rows"][1]["differences"]
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (change["against"], change["how"], change["shown"]) == ("a", "paired", True)
    assert (change["low"], change["high"]) == pytest.approx((low, high))
    assert f"| b | a | tau by accuracy | +0.040 | {low:+.3f} to {high:+.3f} | shown |" in markdown(found)
    unpaired = result({"a": seeds(a), "b": seeds(b, start=4)}, b=("a",))["rows"][1]["differences"][0]
    low, high = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (unpaired["how"], unpaired["shown"]) == ("Welch's", False)  # the control: seeds differ more than methods
    assert (unpaired["low"], unpaired["high"]) == pytest.approx((low, high))


def test_a_row_without_figures_has_no_difference() -> None:
    found = result({"a": {}, "b": seeds([0.1, 0.2, 0.3])}, b=("a",))
    assert found["rows"][1]["differences"] == []
    assert lines(markdown(found), "a") == []
    assert "\nNot run yet: a.\n" in markdown(found)
    assert "difference" not in markdown(found)


def test_one_supernets_own_interval_stands_beside_its_value() -> None:
    figures = {"tau by accuracy": 0.5, "∞ images, accuracy": 0.56, "±, accuracy": 0.02}
    found = result({"a": {"0": figures}, "b": {"0": figures}}, b=("a",))
    assert lines(markdown(found), "a") == ["| a | 0.700 ± 0.010 | 0.500 | 0.560 ± 0.020 | 1 |"]
    assert [change["column"] for change in found["rows"][1]["differences"]] == ["tau by accuracy"]
    more = {str(i): figures | {"∞ images, accuracy": 0.56 + i / 10} for i in range(3)}
    low, high = stats.ttest_1samp([0.56, 0.66, 0.76], 0).confidence_interval(0.95)
    assert f"| 0.660 ± {(high - low) / 2:.3f} | 3 |" in lines(markdown(result({"a": more})), "a")[0]


def test_columns_that_only_some_rows_or_seeds_have_are_shown() -> None:
    found = result({"a": {"0": {"x": 1.0, "subnet": [1, 2]}, "1": {"y": 2.0, "x": None}}, "b": {"0": {"z": 3}}})
    text = markdown(found)
    assert "| row | paper | x | y | z | seeds |" in text
    assert lines(text, "a") == ["| a | 0.700 ± 0.010 | 1.000 | 2.000 | - | 2 |"]


def test_every_row_is_compared_with_rows_of_its_table() -> None:
    compared = 0
    for name in studies.names():
        labels = [row.label for row in studies[name].rows]
        assert len(set(labels)) == len(labels)
        for row in studies[name].rows:
            assert set(row.against) <= set(labels) - {row.label}, row.label
            compared += len(row.against)
    assert compared > 40
