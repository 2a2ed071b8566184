"""Writes locked.txt: every dependency at one version, with the hashes of all its files, for all systems and Pythons.

    make lock

Not of torch and torchvision, whose builds differ by machine, nor of what their builds for GPUs need.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOCKED = HERE / "locked.txt"
BUILDS = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
HEAD = "# Made by `make lock`; see docs/reliability.md.\n"


def compiled() -> str:
    """What uv resolves; versions that are locked stay while they can."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--output-file", str(LOCKED), *sys.argv[1:]]
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    return LOCKED.read_text()


def main() -> None:
    entries = re.split(r"\n(?=\S)", compiled().strip())
    kept = [entry for entry in entries if not entry.startswith("#") and not BUILDS.match(entry)]
    LOCKED.write_text(HEAD + "\n".join(kept) + "\n")
    print(f"{LOCKED.relative_to(HERE.parent)}: {len(kept)} packages")


if __name__ == "__main__":
    main()
