#!/usr/bin/env bash
# The wheel as a user installs it: built, put into a bare environment, which sees the other packages of this one, and run.
# Usage: tests/wheel.sh PYTHON
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$here" ls-files -z | (cd "$here" && xargs -0 cp --parents -t "$work") # what is committed or added alone
cd "$work"
"$python" -m build --no-isolation --outdir dist . > build.log 2>&1 || { tail -20 build.log; exit 1; }
ls dist/*.tar.gz dist/*.whl
"$python" -m venv --without-pip bare
site=$(bare/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --target "$site" dist/*.whl
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/others.pth"
mkdir elsewhere && cd elsewhere
../bare/bin/python -c "import nshot, sys; assert nshot.__file__.startswith('$site'), nshot.__file__"
../bare/bin/python -m nshot.cli --version
../bare/bin/python -m nshot.cli quickstart --out quickstart | tail -3
CXX=no-such-compiler XDG_CACHE_HOME=$work/empty ../bare/bin/python -m nshot.cli train spos --preset smoke --epochs 1 --out plain 2>&1 | tail -2
