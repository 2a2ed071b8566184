"""Memory is the container's where that has less; and every kind of data says its lines where it is told to."""

import ast
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import nshot
import nshot.data.decode
from nshot import UserError
from nshot.data.decode import check_memory
from nshot.data.memory import memory_here, peak_memory
from nshot.data.sources import load

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 2**20


def system(root: Path, groups: str, limits: dict[str, str]) -> Path:
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{p}": t for p, t in limits.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {"memory.max": f"{64 * MIB}"}, 64 * MIB),  # version 2, in a container
        ("0::/", {"memory.max": "max"}, PHYSICAL),
        ("0::/", {}, PHYSICAL),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": f"{9 * MIB}", "memory.max": f"{80 * MIB}"}, 9 * MIB),
        ("0::/a/b", {"a/b/memory.max": f"{5 * MIB}", "a/memory.max": f"{9 * MIB}"}, 5 * MIB),
        ("0::/docker/0af3", {"memory.max": f"{7 * MIB}"}, 7 * MIB),  # the path is that outside
        ("5:cpu,memory:/x\n1:cpu:/y", {"memory/x/memory.limit_in_bytes": f"{6 * MIB}"}, 6 * MIB),  # version 1
        ("5:memory:/docker/0af3", {"memory/memory.limit_in_bytes": f"{6 * MIB}"}, 6 * MIB),
        ("5:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),  # its word for none
        ("4:memory:/x\n0::/y", {"memory/x/memory.limit_in_bytes": f"{6 * MIB}", "memory.max": f"{3 * MIB}"}, 3 * MIB),
        ("5:cpu:/x", {"memory/x/memory.limit_in_bytes": "1", "cpu/x/memory.limit_in_bytes": "1"}, PHYSICAL),
        ("nonsense", {}, PHYSICAL),
    ],
)
def test_the_least_limit_counts(groups: str, limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert memory_here(system(tmp_path, groups, limits)) == expected


def test_a_system_without_groups_has_its_own_memory(tmp_path: Path) -> None:
    assert memory_here(tmp_path) == PHYSICAL


def test_images_are_judged_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = system(tmp_path, "0::/", {"memory.max": f"{64 * MIB}"})
    monkeypatch.setattr(nshot.data.decode, "memory_here", lambda: memory_here(root))
    check_memory(1000, 32, "some")
    with pytest.raises(UserError, match="take about 2 GB, and there are 0 of memory here"):
        check_memory(100_000, 32, "many")


def test_the_images_of_all_processes_of_a_machine_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = system(tmp_path, "0::/", {"memory.max": f"{64 * MIB}"})
    monkeypatch.setattr(nshot.data.decode, "memory_here", lambda: memory_here(root))
    most = 64 * MIB // (7 * 3 * 32 * 32)
    check_memory(most, 32, "some")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # as torchrun sets it
    check_memory(most // 4, 32, "some")
    with pytest.raises(UserError, match=r"GB in 4 processes, .* choose a smaller --resolution, fewer processes, or"):
        check_memory(most // 4 + 1, 32, "some")


# where lines go


def test_imagenet_says_its_lines_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
        (tmp_path / "imagenet" / part / "notes.txt").write_text("no image")
    said: list[str] = []
    load("imagenet", root=tmp_path, resolution=32, say=said.append)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")
    assert any("notes.txt" in line for line in said)


def test_nothing_below_the_commands_prints_of_itself() -> None:
    """A line goes through ``say``; progress, and a thread that has lost its lease, write to standard error."""
    src = Path(nshot.__file__).parent
    printing = set()
    layers = ("data", "training", "runs", "supernets", "networks", "search", "ranking")
    for path in (path for layer in layers for path in (src / layer).glob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            named = [call.func, *call.args, *(keyword.value for keyword in call.keywords)]
            if any(isinstance(one, ast.Name) and one.id == "print" for one in named):
                printing.add(path.name)
    assert printing == {"progress.py", "lock.py", "heartbeat.py"}


def test_the_peak_is_what_was_held_and_stays() -> None:
    before, resident = peak_memory(), psutil.Process().memory_info().rss
    held = np.ones(max(0, before - resident) // 8 + 30_000_000)  # 240 MB more than ever
    now = psutil.Process().memory_info().rss
    assert now > before
    del held
    assert peak_memory() >= now - 2**24
    assert peak_memory() <= now + 2**26
