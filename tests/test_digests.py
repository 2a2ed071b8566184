"""What nshot writes tells whether it is as it was written: every byte changed, every length cut."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from nshot.errors import UserError
from nshot.files import appending, check_inside, needed, read_json, read_parquet, read_stored, write_json, write_parquet
from nshot.runs.checkpoint import load_weights, save_weights
from nshot.runs.log import damaged_lines, read_log, write_log

VALUES = {"tau": 0.1234567890123, "rows": [1, 2.5e-7, None, True, "é<"], "empty": {}, "name": "sha", "n": 10**20}
LINES = [{"step": i, "loss": 1 / (i + 3), "lr": [0.1, 1e-9]} for i in range(4)]
TABLE = pa.table({"arch": ["a", "bb", "ccc"], "params": [1, 2, 3], "true": pa.array([0.5, 1.5, None], pa.float32())})
TABLE = TABLE.replace_schema_metadata({"nshot": '{"seeds": 3}'})


def small() -> nn.Module:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, 0.25)
    nn.init.constant_(layer.bias, -1.5)
    layer.register_buffer("count", torch.tensor(7))
    return layer


def numbers(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: weight.tolist() for name, weight in weights.items()}


WRITTEN: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "json": (lambda path: write_json(path, VALUES), read_json),
    "table": (lambda path: write_parquet(path, TABLE), lambda path: told(read_parquet(path))),
    "weights": (
        lambda path: save_weights(path, small()),
        lambda path: numbers(load_weights(path)),
    ),
}


def told(table: pa.Table) -> Any:
    return table.to_pydict(), [str(kind) for kind in table.schema.types], dict(table.schema.metadata or {})


def damages(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[:at]
        for change in (1 << at % 8, 0x5A):
            yield data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_damaged_file_is_refused_or_says_the_same(kind: str, tmp_path: Path) -> None:
    write, read = WRITTEN[kind]
    path = tmp_path / "file"
    write(path)
    data, whole = path.read_bytes(), read(path)
    refused = 0
    for damaged in damages(data):
        path.write_bytes(damaged)
        try:
            found = read(path)
        except ValueError:
            refused += 1
        else:
            assert_same(found, whole)
    assert refused > len(data)  # every cut, and of the changes most


def assert_same(found: Any, whole: Any) -> None:
    """The same numbers; the entry that had the digest may be there by another name, or with all that a table says of
    itself be gone."""
    if isinstance(whole, dict):
        found = {key: value for key, value in found.items() if key in whole}
    if isinstance(whole, tuple):
        said = {key: value for key, value in found[2].items() if key in whole[2]}
        found = *found[:2], said or whole[2]
    assert found == whole


def test_a_damaged_line_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_log(path, LINES)
    assert (read_log(path), damaged_lines(path)) == (LINES, 0)
    data = path.read_bytes()
    for damaged in damages(data):
        path.write_bytes(damaged)
        found = [{key: line[key] for key in LINES[0] if key in line} for line in read_log(path)]
        assert [line for line in LINES if line in found] == found, damaged
        assert len(found) >= len(LINES) - 2 or len(damaged) < len(data)
        gone = len(LINES) - len(found)
        assert not gone or damaged_lines(path) or data.startswith(damaged)


def test_what_has_no_digest_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"tau": 3}))
    assert read_json(tmp_path / "a.json") == {"tau": 3}
    (tmp_path / "log.jsonl").write_text('{"step": 3}\n')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 3}]


def test_the_remedy_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"tau": 0.5})
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("0.5", "0.6"))
    with pytest.raises(UserError, match=r"a.json cannot be read \(it is not as it was written.* out\): do that$"):
        needed(read_json, tmp_path / "a.json", "do that")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deeply"):
        read_json(tmp_path / "a.json")


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lines").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lines cannot be written"):
        appending(tmp_path / "run" / "lines")
    (tmp_path / "run" / "part-0").symlink_to(tmp_path)
    with pytest.raises(UserError, match="part-0 is a link, and nothing is written outside"):
        check_inside(tmp_path / "run", "part-0")
    assert not (tmp_path / "elsewhere").exists()
    os.mkfifo(tmp_path / "pipe")
    for read in (read_stored, read_json, load_weights, read_parquet):
        with pytest.raises(OSError, match="it is no file"):
            read(tmp_path / "pipe")
    with appending(tmp_path / "lines") as stream:
        stream.write("a\n")
    with appending(tmp_path / "lines") as stream:
        stream.write("b\n")
    assert (tmp_path / "lines").read_text() == "a\nb\n"


def test_weights_under_two_names_are_written_under_both(tmp_path: Path) -> None:
    """As of a block that stands at two places, and of a part of a larger tensor."""
    whole = nn.Linear(6, 6)
    net = nn.ModuleDict({"a": whole, "b": whole, "c": nn.Linear(3, 6)})
    with torch.no_grad():
        net["c"].weight = nn.Parameter(whole.weight.data.view(-1)[:18].view(6, 3))
    save_weights(tmp_path / "w.safetensors", net)
    found = load_weights(tmp_path / "w.safetensors")
    assert found.keys() == net.state_dict().keys()
    assert all(found[name].equal(value) for name, value in net.state_dict().items())
