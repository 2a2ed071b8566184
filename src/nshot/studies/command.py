"""What `nshot study` does: runs the rows of tables that are not there yet, then writes what is there."""

from dataclasses import replace
from pathlib import Path

from nshot.errors import Say, UserError
from nshot.files import check_folder, make_folder
from nshot.runs.where import On
from nshot.spaces import spaces
from nshot.supernets.config import preset

from .base import Scale, Study, scale, studies
from .collect import Known, collect, write
from .figure_c import figure_c
from .runner import jobs_of, run_jobs
from .summary import markdown


def run_study(
    name: str,
    scale_name: str,
    *,
    seeds: int,
    on: On | None = None,
    runs: Path,
    out: Path,
    root: Path | None = None,
    only: str = "",
    run: bool = True,
    say: Say = print,
) -> None:
    """Runs a table or figure (or ``all``) and writes its results.

    Args:
        name: of a study, ``figure-c`` or ``all``.
        scale_name: one of `SCALES`.
        seeds: of each row, from 0.
        on: where runs are made; default: in one process of this machine.
        runs: where runs lie, in a folder a scale.
        out: where results are written; runs whose figures are there already are not run again.
        root: data root.
        only: only rows whose label begins with this are run.
        run: False: only what is there is collected.
        say: takes lines for the user.

    Raises:
        UserError: for a name, scale or number that cannot be, or data that is not there; then nothing is started.
    """
    at = scale(scale_name)
    check_folder(out)
    check_folder(runs)
    if name == "figure-c":
        make_folder(out)
        say(f"written: {figure_c(out / 'figure-c.png', preset('paper').space)}")
        return
    every = [_possible(studies[each], at, say) for each in studies.names()] if name == "all" else [studies[name]]
    chosen = [each for each in every if each.rows]
    before = {each.name: Known.of(each, at, out) for each in chosen}
    if run:
        wanted = [replace(each, rows=tuple(row for row in each.rows if row.label.startswith(only))) for each in chosen]
        if not any(each.rows for each in wanted):
            raise UserError(f"only {only!r}: no row's label begins with it")
        run_jobs(
            jobs_of(wanted, at, seeds, {name: each.figures for name, each in before.items()}),
            runs / at.preset,
            on=on,
            root=root,
            say=say,
        )
    for each in chosen:
        result = collect(each, at, seeds, runs / at.preset, root, before[each.name])
        taken = {name for row in result["rows"] for name in row["runs"].values()}
        if other := before[each.name].figures.keys() - taken:
            say(f"{each.name}: {len(other)} runs in {out} are of other settings or an earlier version, and left out")
        say(f"\n{markdown(result)}")
        say(f"written: {', '.join(map(str, write(result, out)))}")


def _possible(study: Study, at: Scale, say: Say) -> Study:
    """The study without rows of spaces that have no such scale, which is said."""
    rows = tuple(row for row in study.rows if at.preset in ("paper", *spaces[row.setting.space].presets))
    if len(rows) < len(study.rows):
        say(f"{study.name}: {len(study.rows) - len(rows)} rows are of spaces that have no preset {at.preset}, left out")
    return replace(study, rows=rows)
