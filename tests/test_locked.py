"""What `make` installs: each dependency at a version that is allowed, by hashes, from no named place."""

import re
import tomllib
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "requirements" / "locked.txt").read_text()
ENTRIES = re.findall(
    r"^(\S+)==(\S+?)(?: ; (.+?))? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", TEXT, re.MULTILINE
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    every = map(
        Requirement, [*PROJECT["dependencies"], *extras["onnx"], *extras["timm"], *extras["ray"], *extras["dev"]]
    )
    return [one for one in every if one.name not in ("nshot", "torch", "torchvision")]


def test_it_has_nothing_but_versions_and_hashes() -> None:
    written = "".join(f"{n}=={v}{f' ; {m}' if m else ''} \\\n{hashes}" for n, v, m, hashes in ENTRIES)
    assert TEXT.partition("\n")[2] == written
    assert not re.search(r"://|index|(?<![\w.])/|@ ", TEXT.partition("\n")[2])


def test_every_dependency_is_locked_within_its_range() -> None:
    for requirement in wanted():
        versions = [version for name, version, *_ in ENTRIES if name == requirement.name.lower()]
        assert versions, requirement
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_each_system_and_python_has_one_version() -> None:
    for python in ("3.11.7", "3.12.1", "3.13.0"):
        for system, machine in (("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64")):
            here = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
            here |= {"sys_platform": system, "platform_machine": machine}
            names = [name for name, _, marker, _ in ENTRIES if not marker or Marker(marker).evaluate(here)]
            assert len(names) == len(set(names))
            assert {requirement.name.lower() for requirement in wanted()} <= set(names)


def test_builds_that_differ_by_machine_are_not_locked() -> None:
    assert not [name for name, *_ in ENTRIES if re.match("torch|nvidia|cuda|triton", name)]


def test_versions_that_stole_credentials_are_none_of_it() -> None:
    (fabric,) = [one for one in wanted() if one.name == "lightning-fabric"]
    assert [v for v in ("2.6.1", "2.6.2", "2.6.3", "2.6.4") if fabric.specifier.contains(v)] == ["2.6.1", "2.6.4"]


def test_make_installs_by_hashes_first() -> None:
    lines = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    locked, ours, *_ = [line for line in lines if " uv" not in line]
    assert "--require-hashes --no-deps -r $(LOCKED)" in locked
    assert "--no-build-isolation -e" in ours
