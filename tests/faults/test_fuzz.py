"""Texts of any kind where people write some: each is read, and then written it is read as the same again; or refused in
one line (UserError).

    NSHOT_FAULTS=full python -m pytest tests/faults/test_fuzz.py

tries 100,000, the default some hundreds. The draws are the same each time.
"""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nshot
from helpers import SMALL
from limits import FULL, Hang, within
from nshot.benchmarks.table import read_benchmark
from nshot.data import manifest
from nshot.data.sources import load, own_columns, own_folder
from nshot.errors import UserError
from nshot.fields import quantity
from nshot.files import read_json, shown, write_json
from nshot.flags import parse
from nshot.networks.choice import read_choice
from nshot.networks.retrain import RetrainConfig
from nshot.report.draw import read_drawn
from nshot.runs.log import as_line, read_log
from nshot.runs.naming import check_name, kind_of
from nshot.search.limits import Limits
from nshot.search.pick import How
from nshot.spaces.lists import subnets_from_file
from nshot.supernets.config import TrainConfig, from_dict, to_dict

SPACES = {name: nshot.space(name, **SMALL.get(name, {})) for name in nshot.list_spaces()}
TOTAL = 100_000
SHARES = {  # of TOTAL, of a full run; flags are slow to read
    "notations": 0.3,
    "lists": 0.15,
    "configurations": 0.15,
    "choices": 0.1,
    "quantities": 0.1,
    "names": 0.1,
    "lines": 0.05,
    "images": 0.03,
    "flags": 0.02,
}
FEW = {"flags": 30}  # of the default run; else 150


def examples(name: str) -> Callable[[Any], Any]:
    count = round(TOTAL * SHARES[name]) if FULL else FEW.get(name, 150)
    slow = list(HealthCheck)
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=slow)


def test_all_shares_are_tried() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def tried(read: Callable[[], Any]) -> Any:
    """What it reads; None where it is refused, in one line."""
    try:
        return within(read, 10)
    except UserError as error:
        told = str(error)
    except Hang:
        pytest.fail("it took more than 10 seconds")
    assert told
    return None


PIECES = ["|", "~", "+", "0", "-", ",", "=", " ", "(", ")", "[", "]", "'", "skip", "none", "None", "released:", "nats:"]
PIECES += [
    "9" * 5000,
    "9" * 400,
    "٣",
    "²",
    "1e999",
    "nan",
    "-1",
    "True",
    "\0",
    "\n",
    "\ud800",
    "(" * 300,
    "k",
    "M",
    "ms",
]


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[str]) -> str:
    """A valid text with some pieces changed."""
    text = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        end = min(end, at + draw(st.sampled_from([0, 1, 4, 10**6])))
        piece = draw(st.sampled_from([*PIECES, text[at:end], ""]) | st.text(max_size=5))
        text = text[:at] + piece + text[end:]
    return text


@st.composite
def subnets(draw: st.DrawFn) -> tuple[str, str]:
    """A space and a notation of it, or of another, or of none."""
    name = draw(st.sampled_from(sorted(SPACES)))
    of = draw(st.sampled_from([name, name, name, *sorted(SPACES)]))
    seed = draw(st.integers(0, 2**32 - 1))
    space = SPACES[of]
    subnet = tuple(random.Random(seed + i).choice(d.allowed) for i, d in enumerate(space.decisions))
    return name, draw(mutated(st.just(space.format(subnet))) | st.text(max_size=40))


@examples("notations")
@given(subnets())
def test_notations(case: tuple[str, str]) -> None:
    name, text = case
    space = SPACES[name]
    found = tried(lambda: space.parse(text))
    if found is not None:
        assert found in space
        assert all(type(option) is int for option in found)
        # What is left of layers that do not count need not be written.
        assert space.canonical(space.parse(space.format(found))) == space.canonical(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-1, 6) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "list.json"


@examples("lists")
@given(case=st.data())
def test_lists(case: st.DataObject, file: Path) -> None:
    name, text = case.draw(subnets())
    space = SPACES[name]
    known = st.just(list(next(space.subnets()))) | st.just(text) | JSON
    whole = st.lists(known, min_size=1, max_size=4).map(json.dumps) | mutated(st.just(json.dumps([text]))) | st.text()
    data = case.draw(whole).encode(errors="surrogatepass")
    file.write_bytes(data)
    found = tried(lambda: subnets_from_file(file, space, file.parent))
    if found is not None:
        file.write_text(json.dumps([space.format(subnet) for subnet in found]))
        again = subnets_from_file(file, space, file.parent)
        assert [space.canonical(subnet) for subnet in again] == [space.canonical(subnet) for subnet in found]


@st.composite
def changed(draw: st.DrawFn, values: Any) -> Any:
    """JSON of which some entries are others, gone, or one more."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(0, 2))):
        at = values
        while isinstance(at, dict | list) and at:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            what = draw(st.sampled_from(["other", "gone", "more"]))
            if what == "other":
                at[key] = draw(JSON)
            elif what == "gone":
                del at[key]
            elif isinstance(at, dict):
                at[draw(st.text(max_size=5))] = draw(JSON)
            break
    return values


CONFIGS = [to_dict(TrainConfig(space=space)) for space in SPACES.values() if "bias" in space.earlier]
CONFIGS += [to_dict(nshot.supernets.config.preset("smoke", name)) for name in ("spos", "fairnas", "fsnas", "pada")]


@examples("configurations")
@given(st.sampled_from(CONFIGS).flatmap(changed))
def test_configurations(values: Any) -> None:
    found = tried(lambda: from_dict(values))
    if found is not None:
        assert from_dict(json.loads(json.dumps(to_dict(found)))) == found.resolved()
        assert all(type(value) is str for value in (found.dataset, found.split, found.strategy))
        assert all(type(value) is int for value in (found.epochs, found.batch_size, found.seed, found.warmup))


BEST = {
    "arch": "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|",
    "accuracy": 3.0,
    "subnet": [0, 0, 0, 0, 0, 1],
}
SEARCH = {
    "space": {"name": "nasbench201", **nshot.space("nasbench201").sizes()},
    "dataset": "digits",
    "best": BEST,
    "top": [BEST],
    "parts": [BEST],
}


@examples("choices")
@given(values=changed(SEARCH), digest=st.booleans())
def test_choices(values: Any, digest: bool, file: Path) -> None:
    if digest:
        write_json(file, values)
    else:
        file.write_text(json.dumps(values))
    config = tried(lambda: read_choice(str(file)))
    drawn = tried(lambda: read_drawn(str(file), SPACES["nasbench201"]))
    kind_of(file)
    for space, archs in (
        (config[0].space, config[1]) if config else (None, []),
        (drawn[0], [drawn[1]]) if drawn else (None, []),
    ):
        for arch in archs:
            assert isinstance(arch, str)
            tried(lambda space=space, arch=arch: space.parse(arch))
    if digest and isinstance(values, dict):
        json.loads(file.read_text())
        read_json(file)


@examples("quantities")
@given(
    mutated(st.sampled_from(["1.2M", "60M", "1,200,000", "3ms", "0.5 s", "800us", "1e6", "12k", ".5s"]))
    | st.text(max_size=9)
)
def test_quantities(text: str) -> None:
    number = tried(lambda: quantity(text))
    assert number is None or (type(number) is int and number >= 1 and quantity(str(number)) == number)
    limits = tried(lambda: Limits.of(None, None, None, text))
    assert limits is None or 0 < limits.max_latency < float("inf")


@examples("names")
@given(
    text=mutated(
        st.sampled_from(["imagefolder:pets", "parquet:a:image=b:label=c", "imagefolder:x:noflip", "ranking", "a.b"])
    )
    | st.text(max_size=20),
    kind=st.sampled_from(["ranking", "search", "shift"]),
)
def test_names(text: str, kind: Any, file: Path) -> None:
    folder = tried(lambda: own_folder(text, Path("root")))
    columns = tried(lambda: own_columns(text))
    assert (folder is None) == (columns is None)
    if folder is not None:
        assert shown(text) == text
    if tried(lambda: check_name(file.parent, text, kind) or True):
        assert (file.parent / f"{text}.json").parent == file.parent
        assert "\0" not in text
        (file.parent / f"{text}.parquet").write_bytes(b"")  # it can be a file's name
        (file.parent / f"{text}.parquet").unlink()


@examples("lines")
@given(lines=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), max_size=5), more=st.binary(max_size=20))
def test_lines(lines: list[dict[str, Any]], more: bytes, file: Path) -> None:
    lines = [{key: value for key, value in line.items() if key != "crc"} for line in lines]
    file.write_bytes("".join(map(as_line, lines)).encode() + more)
    found = tried(lambda: read_log(file))
    assert json.dumps(found[: len(lines)]) == json.dumps(lines)


@examples("images")
@given(text=mutated(st.just("part,label,name,bytes,digest\ntrain,cat,train/cat/0.png,12,abcd\n")) | st.text())
def test_lists_of_images(text: str, file: Path) -> None:
    file.write_bytes(text.encode(errors="surrogatepass"))
    rows = tried(lambda: manifest._read(file))
    if rows is not None:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([manifest.Row._fields, *rows])
        file.write_bytes(out.getvalue().encode(errors="surrogateescape"))
        assert manifest._read(file) == rows


FLAGS = [
    "--epochs",
    "--batch-size",
    "--lr",
    "--clip",
    "--schedule",
    "--seed",
    "--space",
    "--channels",
    "--warmup",
    "--sample",
    "--method",
    "--objectives",
    "--help-me",
    "--",
    "-",
    "--fast",
    "--no-nesterov",
    "--init",
    "--dataset",
    "--kept",
    "--recipe",
]
VALUES = [
    "1",
    "0",
    "-1",
    "1e9",
    "nan",
    "inf",
    "None",
    "spos",
    "calr",
    "accuracy",
    "params,flops",
    "",
    " ",
    "9" * 400,
    "\ud800",
]


@examples("flags")
@given(args=st.lists(st.sampled_from(FLAGS) | st.sampled_from(VALUES) | st.text(max_size=6), max_size=6))
@pytest.mark.parametrize("command", [TrainConfig, How, RetrainConfig])
def test_flags(args: list[str], command: type) -> None:
    """Parsed as the command line does it, whose arguments have no zero byte."""
    args = [arg.replace("\0", "") for arg in args if arg not in ("-h", "--help")]
    found = tried(lambda: parse(command, args, "fuzz", ""))
    if found is not None and command is TrainConfig:
        assert from_dict(json.loads(json.dumps(to_dict(found)))) == found.resolved()


# What these and the damages have found


DEEP = ["-" * 9000 + "1", "[" * 99 + "]" * 99, "1+" * 4000 + "1", "[" * 10**6, "not " * 2000 + "1"]


@pytest.mark.parametrize("inside", DEEP, ids=range(len(DEEP)))
def test_a_genotype_that_is_too_deep_for_pythons_parser(inside: str) -> None:
    for text in (f"Genotype(normal={inside}, reduce=1)", inside):
        with pytest.raises(UserError, match="is no darts subnet"):
            SPACES["darts"].parse(text)


def test_nobodys_home() -> None:
    with pytest.raises(UserError, match="nobody has the home ~of-nobody here"):
        own_folder("imagefolder:~of-nobody/pets", Path("root"))


@pytest.mark.parametrize("change", [{"best": {"arch": None}, "parts": []}, {"parts": [{"arch": 3}]}, {"dataset": 3}])
def test_a_search_whose_names_are_no_texts(change: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps({**SEARCH, **change}))
    with pytest.raises(UserError, match="is no search result"):
        read_choice(str(file))


OTHER = [{"dataset": 5}, {"epochs": 2.5}, {"epochs": True}, {"lr": "0.1"}, {"options": {"ms": 4}}, {"nesterov": 1}]


@pytest.mark.parametrize("values", OTHER, ids=str)
def test_a_configuration_whose_values_are_of_other_kinds(values: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(CONFIGS[0]))
    for key, value in values.items():
        stored[key] = {**stored[key], **value} if isinstance(value, dict) else value
    with pytest.raises(
        UserError, match=r"must be (a text( or null)?|a whole number|true or false)$|is broken \(TypeError|decision"
    ):
        from_dict(stored)


def test_a_table_whose_texts_are_none(file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xd8b"))
    paths = pa.StructArray.from_arrays([pa.array([b"", b""]), broken], ["bytes", "path"])
    for image, label in (([b"", b""], broken), (paths, [0, 1])):
        pq.write_table(pa.table({"image": image, "label": label}), file.parent / "train-0.parquet")
        with pytest.raises(UserError, match=r"train-0.parquet cannot be read \(.*Invalid UTF8"):
            load(f"parquet:{file.parent}", resolution=8)
    pq.write_table(pa.table({"arch": broken, "x_test": [1.0, 2.0]}), file.parent / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet cannot be read \(.*Invalid UTF8"):
        read_benchmark(str(file.parent / "t.parquet"), SPACES["nasbench201"])
