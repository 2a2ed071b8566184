"""The front door: the site is made strictly, what tutorials say runs, and the files of a project can be read."""

import doctest
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import nshot
from forked import on_path
from helpers import nshot_
from nshot.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIALS = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "pretrained.md", DOCS / "clusters.md"]
BLOCK = re.compile(r"<!-- run -->\n```(python)?\n(.*?)```", re.DOTALL)


def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    """And without a link that leads nowhere inside; each page is in it."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        tmp_path / "trees",
        DOCS,
        tmp_path / "site",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md") if "results" not in path.parts}
    assert all((tmp_path / "site" / page).exists() for page in pages)
    text = (tmp_path / "site" / "api.html").read_text()
    for name in nshot.__all__:
        assert re.search(rf'id="nshot\.[\w.]*{name}"', text), name


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_what_a_tutorial_says_runs(page: Path, tmp_path: Path) -> None:
    """Its blocks in their order, in one folder, with the examples beside; of several seeds the first."""
    blocks = BLOCK.findall(page.read_text().replace("for seed in 0 1 2", "for seed in 0"))
    assert blocks
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    with on_path(tmp_path):
        for language, code in blocks:
            shell = [sys.executable, "-c", code] if language else ["sh", "-euc", f'PATH="{tmp_path}:$PATH"\n{code}']
            done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"


def test_every_command_in_a_tutorial_is_one() -> None:
    """Also those that do not run here."""
    for page in [*TUTORIALS, DOCS / "commands.md", ROOT / "README.md"]:
        for name in re.findall(r"^\s*nshot (\w+)", page.read_text(), re.MULTILINE):
            assert name in COMMANDS, (page.name, name)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (ROOT / target).exists(), target


def test_files_of_the_project_can_be_read() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["linux"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert any("make test" in step.get("run", "") for step in job["steps"])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-format", "ruff", "mypy", "codespell"]
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    assert all({"type", "attributes"} <= part.keys() for part in form["body"])
    job = yaml.safe_load((ROOT / "examples/clusters/kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/shared"}  # every pod sees the folder of runs
    assert job["spec"]["entrypoint"].count("/shared/") == 2
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cite["version"] == nshot.__version__
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= cite.keys()
    assert f"## {nshot.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_words_are_spelt_as_they_should_be() -> None:
    files = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs",
        "src",
        "tests",
        "examples",
        "benchmarks",
    ]
    done = subprocess.run([sys.executable, "-m", "codespell_lib", *files], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", nshot.__all__)
def test_the_example_of_every_public_name_runs(name: str, tmp_path: Path) -> None:
    """Where it needs a retrained network and an image, they are given."""
    known: dict[str, Any] = {"nshot": nshot, "torch": torch, "folder": tmp_path / "best", "out": tmp_path / "out"}
    if name in ("export", "predict"):
        words = ["retrain", "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "--dataset", "digits"]
        sizes = ["--channels", "4", "--cells", "1", "--resolution", "8", "--epochs", "1"]
        assert nshot_(*words, *sizes, "--out", tmp_path / "best")[0] == 0
        known["image"] = tmp_path / "image.png"
        Image.new("RGB", (8, 8)).save(known["image"])
    found = getattr(nshot, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(found, name, globs=known)
    assert len(test.examples) >= 1
    said = io.StringIO()
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.write)
    assert failed == 0, said.getvalue()
