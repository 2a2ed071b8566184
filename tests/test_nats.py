"""Importing the official NAS-Bench-201 and NATS-Bench files: the right means, and nothing but one-line errors."""

import bz2
import os
import pickle
import re
import shutil
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from nshot.benchmarks.nats import COLUMNS, import_official
from nshot.benchmarks.table import read_benchmark
from nshot.errors import UserError
from nshot.files import read_parquet
from nshot.spaces.nasbench201 import NASBench201

# The official order is shuffled; these are its entries 0, 9 and 123, and two more.
ARCHS = [
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
]
PARTS = {
    "cifar10-valid": ["x-valid", "ori-test"],
    "cifar10": ["ori-test"],
    "cifar100": ["ori-test", "x-valid", "x-test"],
    "ImageNet16-120": ["ori-test", "x-valid", "x-test"],
}
EXPECTED = {
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_valid": ("ImageNet16-120", "x-valid"),
    "imagenet16_test": ("ImageNet16-120", "x-test"),
}
FORMS = ["pth", "pbz2", "folder"]
OPERATION = "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|"

# torch's, about a file that is no pickle
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


# official files


def training(rng, arch, dataset, seed, epochs):
    """One training as the official ResultsCount.state_dict() gives it; a draw for every epoch and part."""
    curves = {f"{part}@{epoch}": rng.uniform(5, 95) for part in PARTS[dataset] for epoch in range(epochs)}
    return {
        "name": dataset,
        "net_state_dict": None,
        "train_acc1es": OrderedDict((epoch, rng.uniform(5, 95)) for epoch in range(epochs)),
        "train_times": None,
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": arch, "class_num": 10},
        "params": np.float64(1.5),
        "flop": np.float32(120.0),
        "seed": str(seed),
        "epochs": epochs,
        "latency": np.array([0.1, 0.2]),
        "eval_names": PARTS[dataset],
        "eval_acc1es": curves,
    }


def architecture(rng, index, epochs):
    """The official ArchResults.state_dict(): two seeds, or three of some architectures."""
    seeds = [777, 888, 999][: 2 + index % 2]
    return {
        "arch_index": index,
        "arch_str": ARCHS[index],
        "all_results": OrderedDict(
            ((dataset, seed), training(rng, ARCHS[index], dataset, seed, epochs)) for dataset in PARTS for seed in seeds
        ),
        "dataset_seed": {dataset: list(seeds) for dataset in PARTS},
        "clear_net_done": True,
    }


def official(form):
    """All that an official file of that form says, of few architectures; anew in each call, to be changed."""
    return pickle.loads(_official(form))


@cache
def _official(form):
    rng = np.random.default_rng(0)
    short, full = ("less", "full") if form == "pth" else ("12", "200")
    results = {
        i: OrderedDict({short: architecture(rng, i, 12), full: architecture(rng, i, 200)}) for i in range(len(ARCHS))
    }
    return pickle.dumps(
        {
            "meta_archs": list(ARCHS),
            "total_archs": len(ARCHS),
            "arch2infos": results,
            "evaluated_indexes": set(range(len(ARCHS))),
        }
    )


def squeeze(path, content, protocol=4):
    path.write_bytes(bz2.compress(pickle.dumps(content, protocol=protocol)))


def write(folder, form, content):
    """The content in one of the three official forms; returns the path to import."""
    if form == "pth":
        path = folder / "NAS-Bench-201-v1_1-096897.pth"
        torch.save(content, path)
    elif form == "pbz2":
        path = folder / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
        squeeze(path, content)
    else:
        path = folder / "NATS-tss-v1_0-3ffb9-simple"
        path.mkdir()
        squeeze(path / "meta.pickle.pbz2", {**content, "arch2infos": None, "evaluated_indexes": set()})
        for index, results in content["arch2infos"].items():
            squeeze(path / f"{index:06d}.pickle.pbz2", results)
    return path


def means(content, column):
    """What the table must say, worked out independently."""
    dataset, part = EXPECTED[column]
    values = []
    for index in sorted(content["arch2infos"]):
        hyper = content["arch2infos"][index]
        trials = (hyper["full"] if "full" in hyper else hyper["200"])["all_results"]
        values.append(np.mean([t["eval_acc1es"][f"{part}@199"] for (name, _), t in trials.items() if name == dataset]))
    return np.array(values)


# what is imported


@pytest.mark.parametrize("form", FORMS)
def test_imports_means_over_seeds(tmp_path, form):
    content = official(form)
    path = write(tmp_path, form, content)
    out = import_official(path, tmp_path / "made" / "table.parquet")
    assert out == tmp_path / "made" / "table.parquet"
    space = NASBench201()
    table = read_benchmark(str(out), space)
    assert [space.format(subnet) for subnet in table.subnets] == ARCHS
    assert list(table.columns) == list(COLUMNS) == list(EXPECTED)
    for column in EXPECTED:
        np.testing.assert_allclose(table.columns[column], means(content, column), rtol=1e-6)
    assert table.metadata == {"space": {"name": "nasbench201"}, "imported": path.name}
    assert {i: space.format(subnet) for i, subnet in table.numbered["nats"].items()} == dict(enumerate(ARCHS))
    assert [p.name for p in out.parent.iterdir()] == ["table.parquet"]


def test_order_is_by_index_not_by_storage(tmp_path):
    content = official("pth")
    content["arch2infos"] = dict(reversed(content["arch2infos"].items()))
    out = import_official(write(tmp_path, "pth", content), tmp_path / "t.parquet")
    table = read_benchmark(str(out), NASBench201())
    np.testing.assert_allclose(table.columns["cifar100_test"], means(content, "cifar100_test"), rtol=1e-6)


def test_numbers_stay_the_official_ones_whatever_becomes_of_the_rows(tmp_path):
    """Sorted and filtered by other tools, each row keeps its number."""
    import pyarrow.parquet as pq

    out = import_official(write(tmp_path, "pth", official("pth")), tmp_path / "t.parquet")
    pq.write_table(read_parquet(out).sort_by("arch").slice(1, 3), out)
    space = NASBench201()
    kept = sorted(ARCHS)[1:4]
    found = read_benchmark(str(out), space).numbered["nats"]
    assert found == {ARCHS.index(arch): space.parse(arch) for arch in kept}
    assert list(found) != sorted(found)


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 3], [0, 1, 2, 3, None], [0.0, 1.0, 2.0, 3.0, 4.0]])
def test_numbers_that_cannot_be_are_refused(tmp_path, numbers):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = import_official(write(tmp_path, "pth", official("pth")), tmp_path / "t.parquet")
    table = read_parquet(out)
    pq.write_table(table.set_column(table.column_names.index("nats"), "nats", pa.array(numbers)), out)
    with pytest.raises(UserError, match="no distinct whole numbers in column 'nats': import it again"):
        read_benchmark(str(out), NASBench201())


def test_params_are_of_the_space(tmp_path):
    import pyarrow.parquet as pq

    path = write(tmp_path, "pbz2", official("pbz2"))
    for space in (NASBench201(), NASBench201(channels=4, cells=1)):
        out = import_official(path, str(tmp_path / "t.parquet"), space=space)
        params = pq.read_table(out).column("params").to_pylist()
        networks = [space.network(space.parse(arch), num_classes=10) for arch in ARCHS]
        assert params == [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert import_official(path, tmp_path / "t.parquet") == out
    assert pq.read_table(out).column("params").to_pylist()[3] == 1_531_546


def test_imported_table_answers_for_a_folder_named_by_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "folder", official("folder")))
    out = import_official(".", tmp_path / "t.parquet")
    table = read_benchmark(str(out), NASBench201())
    assert table.metadata["imported"] == "NATS-tss-v1_0-3ffb9-simple"
    subnet = NASBench201().parse(ARCHS[2])
    assert table.truth("cifar10_test", [subnet]) == table.columns["cifar10_test"][2]


def test_accuracies_may_be_numpy_scalars_of_either_numpy(tmp_path):
    """Files written by numpy 1 call its module numpy.core; the legacy torch format and protocol 2 are of those days."""
    content = official("pth")
    for hyper in content["arch2infos"].values():
        for trial in hyper["full"]["all_results"].values():
            final = {key: np.float64(value) for key, value in trial["eval_acc1es"].items() if key.endswith("@199")}
            trial["eval_acc1es"].update(final)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    pth = tmp_path / "old.pth"
    torch.save(content, pth, _use_new_zipfile_serialization=False)
    data = pth.read_bytes().replace(old, new)
    dump = pickle.dumps(content, protocol=3).replace(old, new)
    assert new in data
    assert new in dump
    for names in (lambda b: b, lambda b: b.replace(new, old)):
        pth.write_bytes(names(data))
        (tmp_path / "old.pickle.pbz2").write_bytes(bz2.compress(names(dump)))
        for path in (pth, tmp_path / "old.pickle.pbz2"):
            table = read_benchmark(str(import_official(path, tmp_path / "t.parquet")), NASBench201())
            np.testing.assert_allclose(table.columns["cifar10_test"], means(content, "cifar10_test"), rtol=1e-6)


def test_torch_forgets_what_was_allowed(tmp_path):
    before = set(map(str, torch.serialization.get_safe_globals()))
    import_official(write(tmp_path, "pth", official("pth")), tmp_path / "t.parquet")
    assert set(map(str, torch.serialization.get_safe_globals())) == before


# what is refused


def refused(path, out, *, named=None, **options):
    """Imports, expects a UserError of one line that names the file, and that nothing was written; returns the line."""
    with pytest.raises(UserError) as caught:
        import_official(path, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path if named is None else named) in message
    assert not Path(out).is_file()
    assert not list(Path(out).parent.glob(".*.partial"))
    return message


class Evil:
    """Runs a shell command where it is unpickled by pickle.load."""

    def __init__(self, marker, function=os.system):
        self.marker, self.function = marker, function

    def __reduce__(self):
        if self.function is os.system:
            return os.system, (f"touch {self.marker}",)
        return self.function, (f"__import__('os').system('touch {self.marker}')",)


def test_the_malicious_pickle_of_these_tests_is_one(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("function", [os.system, eval, exec])
@pytest.mark.parametrize("form", [*FORMS, "meta", "legacy", "raw"])
def test_a_malicious_pickle_does_not_run(tmp_path, form, function):
    marker = tmp_path / "run"
    evil = Evil(marker, function)
    if form in ("pth", "pbz2"):
        path = named = write(tmp_path, form, {**official(form), "evil": evil})
    elif form == "legacy":
        path = named = tmp_path / "evil.pth"
        torch.save({"evil": evil}, path, _use_new_zipfile_serialization=False)
    elif form == "raw":
        path = named = tmp_path / "evil.pth"
        path.write_bytes(pickle.dumps(evil, protocol=2))
    else:
        path = write(tmp_path, "folder", official("folder"))
        named = path / ("meta.pickle.pbz2" if form == "meta" else "000003.pickle.pbz2")
        squeeze(named, evil)
    message = refused(path, tmp_path / "t.parquet", named=named)
    assert not marker.exists()
    assert_matches(rf"asks for \S*{function.__name__},.*official source", message)


@pytest.mark.parametrize("form", ["pth", "pbz2"])
@pytest.mark.parametrize("thing", [np.random.default_rng, Path("x"), np.dtype, list])
def test_only_listed_globals_are_read(tmp_path, form, thing):
    if thing is np.dtype:  # the stand-in for dtypes gives no way to others' code: a numpy object scalar is refused
        content, expected = {"x": ObjectScalar()}, "cannot be read .*: fetch it again"
    else:
        content, expected = {"x": thing}, "asks for .*official source"
    path = write(tmp_path, form, content)
    assert_matches(expected, refused(path, tmp_path / "t.parquet"))


class ObjectScalar:
    def __reduce__(self):
        scalar, (_, data) = np.float64(1).__reduce__()
        return scalar, (np.dtype("O"), data)


def assert_matches(pattern, message):
    assert re.search(pattern, message), message


def test_trained_weights_are_refused_in_pickles(tmp_path):
    content = official("folder")
    content["arch2infos"][0]["200"]["all_results"]["cifar10", 777]["net_state_dict"] = {"w": torch.zeros(2)}
    path = write(tmp_path, "folder", content)
    message = refused(path, tmp_path / "t.parquet", named=path / "000000.pickle.pbz2")
    assert "trained weights" in message


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.pickle.pbz2", "nowhere-simple"])
def test_missing_path(tmp_path, name):
    message = refused(tmp_path / name, tmp_path / "t.parquet")
    assert "not found" in message
    assert "NATS-tss-*-simple" in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file(tmp_path, form, kept):
    path = write(tmp_path, form, official(form))
    cut = path / "000002.pickle.pbz2" if form == "folder" else path
    data = cut.read_bytes()
    cut.write_bytes(data[: int(kept * len(data))])
    message = refused(path, tmp_path / "t.parquet", named=cut)
    assert "fetch it again" in message


@pytest.mark.parametrize("name", ["a.pth", "a.pickle.pbz2"])
@pytest.mark.parametrize("seed", range(8))
def test_garbage(tmp_path, name, seed):
    path = tmp_path / name
    data = np.random.default_rng(seed).bytes(200)
    # Half of them are well compressed garbage, so that the unpickler sees it.
    path.write_bytes(bz2.compress(b"\x80\x04" + data) if seed % 2 and name.endswith("pbz2") else data)
    refused(path, tmp_path / "t.parquet")


def test_too_little_memory(tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise MemoryError

    path = write(tmp_path, "pth", official("pth"))
    monkeypatch.setattr(torch, "load", load)
    assert "memory" in refused(path, tmp_path / "t.parquet")


def test_other_files_and_folders(tmp_path):
    other = tmp_path / "NATS-tss-v1_0-3ffb9-simple.tar"
    other.write_bytes(b"")
    assert "unpack" in refused(other, tmp_path / "t.parquet")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "meta.pickle.pbz2" in refused(empty, tmp_path / "t.parquet")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [{}, [], 7, None, {"meta_archs": 3, "arch2infos": {}}, {"state_dict": {"w": 1}}])
def test_expected_keys_are_missing(tmp_path, form, content):
    if form == "folder":
        path = tmp_path / "x-simple"
        path.mkdir()
        named = path / "meta.pickle.pbz2"
        squeeze(named, content)
    else:
        path = named = write(tmp_path, form, content)
    message = refused(path, tmp_path / "t.parquet", named=named)
    assert "'meta_archs'" in message
    assert "expected NAS-Bench-201-*.pth" in message


def test_single_file_without_results(tmp_path):
    content = official("pth")
    message = refused(write(tmp_path, "pth", {**content, "arch2infos": None}), tmp_path / "t.parquet")
    assert "'arch2infos'" in message
    (tmp_path / "b").mkdir()
    message = refused(write(tmp_path / "b", "pth", {"meta_archs": [], "arch2infos": {}}), tmp_path / "t.parquet")
    assert "no architectures" in message


def test_incomplete_collection(tmp_path):
    folder = write(tmp_path, "folder", official("folder"))
    (folder / "000001.pickle.pbz2").unlink()
    assert "lacks 000001.pickle.pbz2" in refused(folder, tmp_path / "t.parquet")
    content = official("pbz2")
    del content["arch2infos"][3]
    assert "architecture 3" in refused(write(tmp_path, "pbz2", content), tmp_path / "t.parquet")


def spoil(hyper, key, change):
    """Changes the 200-epoch results of one architecture."""
    del hyper["12" if "12" in hyper else "less"]
    return change(hyper[key])


def without(key):
    return lambda results: results.pop(key)


def trial(**values):
    return lambda results: results["all_results"]["cifar100", 888].update(values)


def accuracy(value, key="x-test@199"):
    return lambda results: results["all_results"]["cifar100", 888]["eval_acc1es"].update({key: value})


BROKEN = [
    (without("arch_str"), "KeyError: 'arch_str'"),
    (without("all_results"), "KeyError: 'all_results'"),
    (without("dataset_seed"), "KeyError: 'dataset_seed'"),
    (lambda r: r["dataset_seed"].pop("ImageNet16-120"), "KeyError: 'ImageNet16-120'"),
    (lambda r: r["dataset_seed"].update({"cifar10": []}), r"cifar10 ori-test are \[\]"),
    (lambda r: r["dataset_seed"].update({"cifar10": [111]}), "111"),
    (lambda r: r["dataset_seed"].update({"cifar10": 777}), "TypeError"),
    (lambda r: r["all_results"].update({("cifar10", 777): [1]}), "TypeError"),
    (lambda r: r["all_results"]["cifar100", 888]["eval_acc1es"].pop("x-test@199"), "KeyError: 'x-test@199'"),
    (lambda r: r.update(arch_str=ARCHS[0]), "results are of"),
    (trial(epochs=12), "no 200-epoch results but 12 of cifar100; name a complete file"),
    (trial(eval_acc1es=None), "TypeError"),
    (accuracy(float("nan")), "cifar100 x-test are"),
    (accuracy(-1.0), "cifar100 x-test are"),
    (accuracy(101.0), "cifar100 x-test are"),
    (accuracy("90"), "cifar100 x-test is a str"),
    (accuracy(None), "cifar100 x-test is a NoneType"),
    (accuracy(np.zeros(2)), "cifar100 x-test is a _Array"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("change", "expected"), BROKEN)
def test_broken_results(tmp_path, form, change, expected):
    content = official(form)
    spoil(content["arch2infos"][1], "full" if form == "pth" else "200", change)
    path = write(tmp_path, form, content)
    message = refused(path, tmp_path / "t.parquet")
    assert_matches(expected, message)
    assert "000001.pickle.pbz2" in message if form == "folder" else "architecture 1" in message
    assert_matches("fetch the file again|name a complete file", message)


@pytest.mark.parametrize("form", FORMS)
def test_no_200_epoch_results(tmp_path, form):
    content = official(form)
    del content["arch2infos"][4]["full" if form == "pth" else "200"]
    message = refused(write(tmp_path, form, content), tmp_path / "t.parquet")
    assert_matches(f"no 200-epoch results .* but {'less' if form == 'pth' else '12'}; name a complete file", message)
    content["arch2infos"][4] = [1]
    shutil.rmtree(tmp_path / "NATS-tss-v1_0-3ffb9-simple", ignore_errors=True)
    assert "results are a list" in refused(write(tmp_path, form, content), tmp_path / "t.parquet")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arch", ["64:64:64:64:64", "7", 7, None, OPERATION])
def test_no_nasbench201_subnet(tmp_path, form, arch):
    content = official(form)
    content["meta_archs"][1] = arch
    for results in content["arch2infos"][1].values():
        results["arch_str"] = arch
    message = refused(write(tmp_path, form, content), tmp_path / "t.parquet")
    assert repr(arch) in message
    assert "name a topology (tss) file" in message


def test_spaces_that_do_not_fit(tmp_path):
    class Other(NASBench201):
        name: ClassVar[str] = "other"

    path = write(tmp_path, "pth", official("pth"))
    assert "nasbench201" in refused(path, tmp_path / "t.parquet", named="space other", space=Other())
    refused(path, tmp_path / "t.parquet", space=NASBench201().restrict("1<-0", "avg_pool_3x3"))


def test_out_that_cannot_be_written(tmp_path):
    path = write(tmp_path, "pth", official("pth"))
    (tmp_path / "folder.parquet").mkdir()
    for out in (path, tmp_path / "folder.parquet", tmp_path / "table.csv"):
        with pytest.raises(UserError, match=r"name a \.parquet file"):
            import_official(path, out)
    with pytest.raises(UserError, match=r"t\.parquet cannot be written .*: name another file"):
        import_official(path, path / "t.parquet")
    assert torch.load(path, weights_only=False)["total_archs"] == len(ARCHS)


def test_a_failed_import_leaves_the_old_table(tmp_path):
    content = official("pbz2")
    out = import_official(write(tmp_path, "pbz2", content), tmp_path / "t.parquet")
    before = out.read_bytes()
    del content["arch2infos"][4]["200"]
    with pytest.raises(UserError):
        import_official(write(tmp_path, "pbz2", content), out)
    assert out.read_bytes() == before
