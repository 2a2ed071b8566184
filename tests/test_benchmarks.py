"""Benchmarks: tables written and read, builds that resume and grow, and the table that nshot ships."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau

from nshot import UserError, space
from nshot.benchmarks.build import BuildConfig, build, distinct_subnets
from nshot.benchmarks.table import EMBEDDED, METADATA, read_benchmark, write_benchmark
from nshot.data.augment import Augment
from nshot.data.sources import load
from nshot.files import read_json
from nshot.networks.alone import Recipe, train_alone
from nshot.nn.cells import live_edges
from nshot.runs.where import On

SPACE = space("nasbench201", channels=4, cells=1, resolution=8)
SUBNETS = [(3, 3, 3, 3, 3, 3), (0, 1, 2, 3, 4, 0), (2, 0, 0, 0, 0, 2)]
ARCHS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|",
]
COLUMNS = {"toy_valid": np.array([70.5, 10.25, 55.125]), "toy_test": np.array([71.0, 9.5, 100 / 3])}

# the table


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "toy.parquet"
    write_benchmark(path, SPACE, SUBNETS, COLUMNS, {"space": {"name": "nasbench201"}, "note": "γ"})
    return path


def test_round_trip(table):
    benchmark = read_benchmark(str(table), SPACE)
    assert benchmark.subnets == SUBNETS
    assert list(benchmark.columns) == ["toy_valid", "toy_test"]
    for name, values in COLUMNS.items():
        assert benchmark.columns[name] == pytest.approx(values, rel=1e-6)
    assert benchmark.metadata == {"space": {"name": "nasbench201"}, "note": "γ"}


def test_what_is_written_needs_no_nshot(table):
    rows = pq.read_table(table).to_pydict()
    assert list(rows) == ["arch", "params", "toy_valid", "toy_test"]
    assert rows["arch"] == ARCHS
    counted = [sum(weight.numel() for weight in SPACE.network(subnet).parameters()) for subnet in SUBNETS]
    assert rows["params"] == counted


def test_truth_follows_the_order_asked_for(table):
    benchmark = read_benchmark(str(table), SPACE)
    assert benchmark.truth("toy_valid", [SUBNETS[2], SUBNETS[0], SUBNETS[2]]).tolist() == [55.125, 70.5, 55.125]


def test_truth_refuses_what_it_has_not(table):
    benchmark = read_benchmark(str(table), SPACE)
    with pytest.raises(UserError, match=r"no column 'cifar10_test': choose one of toy_valid, toy_test"):
        benchmark.truth("cifar10_test", SUBNETS)
    with pytest.raises(UserError, match=r"lacks 2 of the subnets, such as \(1, 1, 1, 1, 1, 1\)"):
        benchmark.truth("toy_test", [SUBNETS[0], (1,) * 6, (4,) * 6])


def test_nasbench201_lies_under_the_data_root(table, tmp_path):
    home = tmp_path / "root" / "nasbench201"
    home.mkdir(parents=True)
    shutil.copy(table, home / "table.parquet")
    assert read_benchmark("nasbench201", SPACE, tmp_path / "root").subnets == SUBNETS


def rewritten(table: pa.Table, path: Path, metadata: bytes | None = None) -> None:
    pq.write_table(table.replace_schema_metadata(None if metadata is None else {METADATA: metadata}), path)


def renamed(path: Path, old: str, new: str) -> None:
    table = pq.read_table(path)
    rewritten(table.rename_columns([new if name == old else name for name in table.column_names]), path)


def with_column(path: Path, name: str, values: list) -> None:
    table = pq.read_table(path)
    rewritten(table.set_column(table.column_names.index(name), name, pa.array(values)), path)


def with_arch(path: Path, arch: str) -> None:
    with_column(path, "arch", [*ARCHS[:2], arch])


BROKEN = {
    "missing": (Path.unlink, "not found at"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read"),
    "csv": (lambda path: path.write_text("arch,toy_test\n"), "cannot be read"),
    "no arch": (lambda path: renamed(path, "arch", "cell"), "has columns cell, params, toy_valid, toy_test: expected"),
    "no accuracies": (lambda path: rewritten(pq.read_table(path).select(["arch"]), path), "has columns arch: expected"),
    "other notation": (lambda path: with_arch(path, "ofa-3-5-7"), "not of space nasbench201.*ofa-3-5-7"),
    "other operation": (lambda path: with_arch(path, ARCHS[2].replace("1x1", "5x5")), "not of space .*nor_conv_5x5"),
    "other space": (lambda path: rewritten(pq.read_table(path), path, b'{"space": {"name": "darts"}}'), "space darts"),
    "no rows": (lambda path: rewritten(pq.read_table(path).slice(0, 0), path), "has no rows"),
    "a subnet twice": (lambda path: with_arch(path, ARCHS[0]), r"lists \|.* twice"),
    "numbers for notation": (
        lambda path: with_column(path, "arch", [1, 2, 99999]),
        "not of space .*'1': a number needs its order",
    ),
    "a number missing": (lambda path: with_column(path, "toy_test", [1.0, None, 3.0]), "lacks 1 accuracies.*toy_test"),
    "not a number": (lambda path: with_column(path, "toy_test", [1.0, 2.0, float("nan")]), "lacks 1 accuracies"),
    "words for numbers": (lambda path: with_column(path, "toy_test", ["a", "b", "c"]), "no numbers in column"),
    "a space without name": (lambda path: rewritten(pq.read_table(path), path, b'{"space": {}}'), "broken metadata"),
    "a space that is none": (lambda path: rewritten(pq.read_table(path), path, b'{"space": 3}'), "broken metadata"),
    "broken metadata": (lambda path: rewritten(pq.read_table(path), path, b'{"space"'), "benchmark"),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_table_is_refused(table, spoil, message):
    spoil(table)
    with pytest.raises(UserError, match=message) as refusal:
        read_benchmark(str(table), SPACE)
    assert "toy.parquet" in str(refusal.value)
    assert "\n" not in str(refusal.value)


# of which sizes a table is

OFFICIAL, FULL = {"name": "nasbench201"}, {"name": "nasbench201", "channels": 16, "cells": 5, "resolution": 32}
SMOKE = {"name": "nasbench201", "channels": 4, "cells": 1, "resolution": 8}
OWN = {"channels": 8, "cells": 2}
SIZES = [  # what the table says, the run's sizes, what is wrong
    (OFFICIAL, {}, None),
    (OFFICIAL, {"resolution": 16}, None),
    (OFFICIAL, {"cells": 1, "resolution": 16}, None),  # proxy
    (OFFICIAL, {"channels": 4, "cells": 1, "resolution": 8}, None),  # smoke
    (OFFICIAL, {"num_classes": 100}, None),
    (OFFICIAL, OWN, "networks of channels 16, cells 5, the run's are of channels 8, cells 2: name one"),
    (OFFICIAL, {"cells": 2}, "networks of cells 5, the run's are of cells 2: name one"),
    (FULL, {"cells": 1, "resolution": 16}, None),
    (FULL, OWN, "networks of channels 16, cells 5, the run's are of channels 8, cells 2: name one"),
    (FULL | {"resolution": 64}, {"cells": 1}, "of resolution 64, the run's are of resolution 32: name one"),
    (SMOKE, {"channels": 4, "cells": 1, "resolution": 8}, None),
    (SMOKE, {"channels": 4, "cells": 1, "resolution": 8, "num_classes": 3}, None),
    (SMOKE, {"channels": 4, "cells": 1, "resolution": 16}, "of resolution 8, the run's are of resolution 16: name one"),
    (
        SMOKE,
        {"cells": 1, "resolution": 8},
        "of channels 4, cells 1, the run's .* channels 16, cells 1, which .* channels 16, cells 5",
    ),
    (SMOKE, {}, "networks of channels 4, cells 1, the run's are of channels 16, cells 5: name one"),
    (FULL | OWN, OWN, None),
    (
        FULL | OWN,
        {"cells": 1},
        "of channels 8, cells 2, the run's are of channels 16, cells 1, which stand for .* cells 5",
    ),
    (FULL | {"depth": 3}, {}, "networks of depth 3, the run's are of depth None"),  # of a later version
]


@pytest.mark.parametrize(("stated", "sizes", "wrong"), SIZES)
@pytest.mark.parametrize("restricted", [False, True])
def test_a_table_of_other_sizes_is_refused(stated, sizes, wrong, restricted, tmp_path):
    run = space("nasbench201", **sizes)
    if restricted:  # as a part of FSNAS
        run = run.restrict("3<-2", "nor_conv_3x3", "none", "nor_conv_1x1")
    path = tmp_path / "toy.parquet"
    write_benchmark(path, SPACE, SUBNETS, COLUMNS, {"space": stated})
    if wrong is None:
        assert read_benchmark(str(path), run).subnets == SUBNETS
    else:
        with pytest.raises(UserError, match=wrong) as refusal:
            read_benchmark(str(path), run)
        assert "\n" not in str(refusal.value)
        rewritten(pq.read_table(path), path)  # the way out that is named
        assert read_benchmark(str(path), run).subnets == SUBNETS


def test_sizes_of_the_supernet_alone_make_no_other_table(tmp_path):
    """Whether a supernet's batch norms run is no matter of the networks; strides, a list in JSON, are."""
    small = {"width": 0.25, "resolution": 32, "strides": (2, 1, 2, 1, 1, 2, 1)}
    of = space("mobilenet", **small, norm="running")
    path = tmp_path / "toy.parquet"
    subnet = next(of.subnets())
    described = {"space": {"name": "mobilenet", **of.sizes()}}
    write_benchmark(path, of, [subnet], {"toy_test": np.array([1.0])}, described)
    assert read_benchmark(str(path), space("mobilenet", **small)).subnets == [subnet]
    with pytest.raises(UserError, match=r"of networks of strides \[2, 1, 2, 1, 1, 2, 1\], the run's are of strides \["):
        read_benchmark(str(path), space("mobilenet", width=0.25, resolution=32))


def test_what_a_space_stands_for():
    assert space("nasbench201", cells=1, resolution=16).represented == space("nasbench201", resolution=16)
    assert space("darts", channels=4, cells=3, resolution=8).represented == space("darts", resolution=8)
    part = space("nasbench201", channels=4, cells=1).restrict("1<-0", "none")
    assert part.represented == space("nasbench201").restrict("1<-0", "none")
    for own in (space("nasbench201", channels=4), space("autoformer", depths=(3, 4)), space("mobilenet", width=0.25)):
        assert own.represented == own


def test_table_without_metadata_is_read(table):
    rewritten(pq.read_table(table), table)
    assert read_benchmark(str(table), SPACE).metadata == {}


# building

CONFIG = BuildConfig(recipe=Recipe(epochs=1, batch_size=64, lr=0.1), subnets=4, seeds=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "digits"
    assert build(CONFIG, folder, on=On(jobs=2), say=lambda line: None) == folder / "benchmark.parquet"
    return folder


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return shutil.copytree(built, tmp_path / "copy")


def read(folder: Path) -> dict[str, list]:
    return pq.read_table(folder / "benchmark.parquet").to_pydict()


def lines_of(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text().splitlines(keepends=True)


def test_build_has_means_and_seeds(built):
    rows = read(built)
    parts = [[f"digits_{part}", f"digits_{part}_seed0", f"digits_{part}_seed1"] for part in ("valid", "test")]
    assert list(rows) == ["arch", "params", *parts[0], *parts[1]]
    assert len(set(rows["arch"])) == 4
    for mean, *seeds in parts:
        assert rows[mean] == pytest.approx([sum(values) / 2 for values in zip(*map(rows.get, seeds), strict=True)])
        assert rows[seeds[0]] != rows[seeds[1]]
        hits = np.array([rows[seed] for seed in seeds]) * 599 / 100  # both parts have 599 images
        assert hits == pytest.approx(hits.round(), abs=1e-4)


def test_build_puts_each_training_where_it_belongs(built):
    rows = read(built)
    for line in map(json.loads, lines_of(built)):
        for part in ("valid", "test"):
            assert rows[f"digits_{part}_seed{line['seed']}"][line["subnet"]] == pytest.approx(line[part])
    trained = [(json.loads(line)["subnet"], json.loads(line)["seed"]) for line in lines_of(built)]
    assert sorted(trained) == [(subnet, seed) for subnet in range(4) for seed in range(2)]


def test_build_says_what_it_is(built):
    benchmark = read_benchmark(str(built / "benchmark.parquet"), SPACE)
    assert benchmark.metadata["space"]["channels"] == 4
    assert benchmark.metadata["recipe"]["epochs"] == 1
    assert [benchmark.metadata[key] for key in ("dataset", "split", "subnets", "seeds")] == ["digits", "half", 4, 2]
    assert list(benchmark.columns) == ["digits_valid", "digits_test"]


def test_killed_build_continues(built, copy):
    (copy / "benchmark.parquet").unlink()
    kept = lines_of(copy)[:4]
    (copy / "results.jsonl").write_text("".join(kept) + lines_of(copy)[4][:20])
    said = []
    build(CONFIG, copy, on=On(jobs=1), say=said.append)
    assert said == ["4 of 8 trainings are done, 4 to do in 1 processes"]
    assert lines_of(copy)[:4] == kept
    assert sorted(lines_of(copy)) == sorted(lines_of(built))
    assert pq.read_table(copy / "benchmark.parquet").equals(pq.read_table(built / "benchmark.parquet"))


def test_build_grows_and_shrinks_without_training_anything_twice(built, copy):
    said = []
    build(dataclasses.replace(CONFIG, subnets=5, seeds=3), copy, on=On(jobs=2), say=said.append)
    assert said == ["8 of 15 trainings are done, 7 to do in 2 processes"]
    assert lines_of(copy)[:8] == lines_of(built)
    assert len({(json.loads(line)["subnet"], json.loads(line)["seed"]) for line in lines_of(copy)}) == 15
    before, after = read(built), read(copy)
    for name in ("arch", "params", *(f"digits_{part}_seed{seed}" for part in ("valid", "test") for seed in (0, 1))):
        assert after[name][:4] == before[name]
    seeds = np.array([after[f"digits_test_seed{seed}"] for seed in range(3)])
    assert seeds.shape == (3, 5)
    assert after["digits_test"] == pytest.approx(seeds.sum(0) / 3)
    config = read_json(copy / "config.json")["config"]
    assert (config["subnets"], config["seeds"]) == (5, 3)

    build(CONFIG, copy, on=On(jobs=1), say=said.append)
    assert said[1] == "8 of 8 trainings are done, 0 to do in 1 processes"
    assert len(lines_of(copy)) == 15
    assert pq.read_table(copy / "benchmark.parquet").equals(pq.read_table(built / "benchmark.parquet"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": Recipe(epochs=2, batch_size=64, lr=0.1)}, r"recipe\.epochs: 1, not 2"),
        ({"recipe": Recipe(epochs=1, batch_size=64, lr=0.2)}, r"recipe\.lr: 0\.1, not 0\.2"),
        ({"space": dataclasses.replace(SPACE, channels=8)}, r"space\.channels: 4, not 8"),
        ({"space": SPACE.restrict("1<-0", "none"), "subnets": 9}, r"space\.kept"),
        ({"split": "mine.json"}, r"split: half, not mine\.json"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_build_in_the_folder_is_refused(change, named, copy, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"train": list(range(100)), "valid": [100, 101]}))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(UserError, match=named) as refusal:
        build(dataclasses.replace(CONFIG, **change), copy, root=tmp_path, on=On(jobs=1), say=lambda line: None)
    assert "seeds" not in str(refusal.value)
    assert "subnets" not in str(refusal.value)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_build_of_an_earlier_version_goes_on(copy):
    """What it did not write is taken as the default."""
    stored = read_json(copy / "config.json")
    del stored["config"]["recipe"]["optimizer"], stored["config"]["recipe"]["augment"]["cutout"]
    (copy / "config.json").write_text(json.dumps(stored))
    said = []
    build(CONFIG, copy, on=On(jobs=1), say=said.append)
    assert said == ["8 of 8 trainings are done, 0 to do in 1 processes"]


def test_a_build_by_calr_of_an_earlier_version_keeps_its_own_complexity(copy):
    """Which it does not say; a preset's sizes would be the paper's now."""
    calr = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, schedule="calr"))
    path = copy / "config.json"
    stored = read_json(path)
    stored["config"]["recipe"] |= {"schedule": "calr"}
    del stored["config"]["recipe"]["complexity_of"]
    path.write_text(json.dumps(stored))
    said = []
    with pytest.raises(UserError, match=r"recipe\.complexity_of: own, not paper"):
        build(calr, copy, on=On(jobs=1), say=said.append)
    own = dataclasses.replace(calr, recipe=dataclasses.replace(calr.recipe, complexity_of="own"))
    build(own, copy, on=On(jobs=1), say=said.append)
    assert said == ["8 of 8 trainings are done, 0 to do in 1 processes"]


def test_a_build_that_has_no_gamma_is_refused_before_any_folder(tmp_path):
    calr = dataclasses.replace(CONFIG.recipe, schedule="calr", complexity_of="paper")
    small = space("mobilenet", width=0.5, resolution=8, strides=(1,) * 7)
    with pytest.raises(UserError, match="complexity_of 'paper'"):
        build(BuildConfig(small, calr, subnets=2, seeds=1), tmp_path / "out", on=On(jobs=1))
    assert not (tmp_path / "out").exists()


def test_a_build_by_other_forms_is_refused(copy):
    """A version to which more subnets were distinct drew others by the same numbers."""
    stored = read_json(copy / "config.json")
    assert stored["config"]["forms"] == 7_548
    del stored["config"]["forms"]
    (copy / "config.json").write_text(json.dumps(stored))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(UserError, match="forms: None, not 7548"):
        build(dataclasses.replace(CONFIG, seeds=3), copy, on=On(jobs=1), say=lambda line: None)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_build_without_jobs_is_refused(tmp_path):
    with pytest.raises(UserError, match="jobs 0"):
        build(CONFIG, tmp_path / "out", on=On(jobs=0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"subnets": 0}, {"seeds": -1}])
def test_build_of_nothing_is_refused(change):
    with pytest.raises(UserError, match=" ".join(map(str, *change.items()))):
        dataclasses.replace(CONFIG, **change)


# which subnets are built


def test_distinct_subnets_compute_distinct_functions():
    subnets = distinct_subnets(SPACE, 300)
    assert len({SPACE.canonical(subnet) for subnet in subnets}) == 300
    assert distinct_subnets(SPACE, 200) == subnets[:200]  # so that a build can grow


def test_distinct_subnets_of_a_restricted_space_are_its_own():
    smaller = SPACE.restrict("1<-0", "nor_conv_3x3").restrict("3<-2", "avg_pool_3x3", "nor_conv_1x1")
    subnets = distinct_subnets(smaller, 300)
    assert all(subnet[0] == 3 and subnet[5] in (2, 4) for subnet in subnets)
    assert len({SPACE.canonical(subnet) for subnet in subnets}) == 300
    assert any(SPACE.canonical(subnet)[0] != 3 for subnet in subnets)  # edge 1<-0 leads nowhere in some
    assert {smaller.canonical(subnet) for subnet in subnets} == set(subnets)


def test_too_many_distinct_subnets_are_refused():
    chain = SPACE
    for edge in ("2<-0", "3<-0", "3<-1"):
        chain = chain.restrict(edge, "none")
    # 0 -> 1 -> 2 -> 3 is all that is left: all 61 broken chains are one function, and of the 4 ** 3 others those of
    # skips and averages are known by the number of averages alone, before, between and behind the convolutions.
    broken, weightless = 1, 4
    one = sum(2 * (places + 1) * (2 - places + 1) for places in range(3))
    two, three = 2**2 * (2 + 2 + 2), 2**3
    count = broken + weightless + one + two + three
    assert len(distinct_subnets(chain, count)) == count
    with pytest.raises(UserError, match=f"subnets {count + 1}: space nasbench201 of these sizes has {count}"):
        distinct_subnets(chain, count + 1)


# the embedded benchmark


@pytest.fixture(scope="module")
def digits():
    return read_benchmark("digits", SPACE)


@pytest.fixture(scope="module")
def rows() -> dict[str, list]:
    return pq.read_table(EMBEDDED).to_pydict()


def seeds_of(rows, part: str) -> np.ndarray:
    """(seeds, subnets)"""
    count = sum(name.startswith(f"digits_{part}_seed") for name in rows)
    return np.array([rows[f"digits_{part}_seed{seed}"] for seed in range(count)])


def test_embedded_benchmark_is_large_and_small(digits):
    """It was drawn when fewer subnets were known to be equal (docs/results.md)."""
    assert len(set(map(live_edges, digits.subnets))) == len(digits.subnets) == 500
    assert (len(set(map(SPACE.canonical, digits.subnets))), len(set(map(SPACE.twin, digits.subnets)))) == (467, 389)
    members = Counter(map(SPACE.canonical, digits.subnets))
    assert sum(count for count in members.values() if count > 1) == 56
    assert EMBEDDED.stat().st_size < 300_000


def test_embedded_benchmark_repeats_itself(rows):
    """Two halves of the seeds order the subnets alike: the truth is worth ranking against."""
    seeds = seeds_of(rows, "test")
    half = len(seeds) // 2
    assert half >= 2
    assert kendalltau(seeds[:half].sum(0), seeds[-half:].sum(0)).statistic >= 0.7


@pytest.mark.parametrize("part", ["valid", "test"])
def test_embedded_accuracies_are_means_over_seeds(rows, digits, part):
    seeds = seeds_of(rows, part)
    assert digits.columns[f"digits_{part}"] == pytest.approx(seeds.sum(0) / len(seeds), rel=1e-6)
    assert 0 <= seeds.min() < 50 < 90 < seeds.max() <= 100
    assert len({tuple(seed) for seed in seeds}) == len(seeds)


def test_embedded_benchmark_says_how_it_was_made(digits, rows):
    assert digits.metadata["space"] == {"name": "nasbench201", **SPACE.sizes(), "kept": []}
    assert set(digits.metadata["recipe"]) <= {field.name for field in dataclasses.fields(Recipe)}
    assert digits.metadata["dataset"] == "digits"
    assert digits.metadata["subnets"] == len(digits.subnets)
    assert digits.metadata["seeds"] == len(seeds_of(rows, "test"))


def test_embedded_benchmark_can_be_had_again(digits, rows):
    """Its best subnet, trained by the recipe it names. Accuracies differ a little between machines."""
    best = int(np.argmax(rows["digits_test"]))
    data = load("digits", resolution=8)
    valid, test = train_alone(SPACE, digits.subnets[best], data, Recipe(**digits.metadata["recipe"]), seed=0)
    assert valid == pytest.approx(rows["digits_valid_seed0"][best], abs=3)
    assert test == pytest.approx(rows["digits_test_seed0"][best], abs=3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"frozen": 1}, "backbone_lr 1.0, frozen 1 have no effect here"),
        ({"backbone_lr": 0.5}, "backbone_lr 0.5, frozen 0 have no effect here"),
        ({"augment": Augment(cutout=32)}, "cutout 32: must not exceed the 8 pixels"),
        ({"augment": Augment(mixup=0.2), "batch_size": 63}, "batch"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_any_folder(recipe: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(
            BuildConfig(subnets=2, seeds=1, recipe=Recipe(**{"epochs": 2, "batch_size": 64, **recipe})), tmp_path / "b"
        )
    assert not (tmp_path / "b").exists()


def test_a_network_that_diverged_has_no_accuracy() -> None:
    """The largest of numbers that are none is the first: the share of class 0 would stand in the table."""
    small = space("nasbench201", channels=4, cells=1, resolution=8)
    data = load("digits", resolution=8)
    with pytest.raises(
        UserError, match=r"the training of .* by seed 0 does not stay finite: lower --lr, or set --clip"
    ):
        train_alone(small, (3,) * 6, data, Recipe(epochs=2, batch_size=64, lr=1e9), 0)
