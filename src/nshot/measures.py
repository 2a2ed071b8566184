"""The commands that measure: scores that need no training, and what a trained supernet's layers see."""

from dataclasses import dataclass, field
from pathlib import Path

from nshot.errors import UserError
from nshot.flags import Columns, Where, leading, parse, take, take_space
from nshot.runs.where import On

# Nothing that imports torch may be imported here: `nshot --help` must answer at once.


def score(args: list[str]) -> None:
    """scores that need no training: nshot score zico|zen|... --benchmark B [--run RUN] [options]"""
    from dataclasses import replace

    from nshot.benchmarks.zero_cost import ScoreConfig, check_names, of_run, score_subnets
    from nshot.report.plots import scatter, score_scatter
    from nshot.report.tables import print_scores
    from nshot.scores import list_scores

    names = leading(args)
    run = take(args, "--run")
    default = take_space(args, ScoreConfig() if run is None else of_run(Path(run)))

    @dataclass(frozen=True)
    class Score(Where, Columns):
        benchmark: str
        """digits (embedded), nasbench201 (under the data root), or a parquet file."""
        out: Path = Path("runs/scores")
        """Folder of the scores of one space, data set and seed; what is scored there already is taken from there."""
        subnets: Path | None = None
        """JSON list of the subnets to score, as nshot rank has it."""
        sample: int | None = None
        """Without --subnets: how many random subnets of the benchmark, 0 for all; default: 1,000."""
        column: str | None = None
        """The benchmark's column of true accuracies; default: <dataset>_test."""
        ranking: str = "ranking"
        """Of --run: the ranking that has the losses of these subnets; it is made where there is none of this name."""
        name: str = "scores"
        """Names the files written to the folder."""
        config: ScoreConfig = field(default_factory=lambda: default)
        at: On = field(default_factory=On)
        """Where subnets are scored."""

    what = (
        f"Rank subnets by scores that need no training: {', '.join(list_scores())}. With --run RUN (a folder that "
        "nshot train made, whose space and data set are then the defaults) each score is also combined with the "
        "supernet's loss: the mean of both ranks."
    )
    command = parse(Score, args, "score NAMES...", what)
    check_names(names)
    if run is None and command.ranking != Score.ranking:
        raise UserError(f"ranking {command.ranking!r} has no effect without --run")
    config = replace(command.config, dataset=command.named(command.config.dataset))
    found = score_subnets(
        names,
        config,
        command.benchmark,
        command.out,
        subnets=command.subnets,
        sample=command.sample,
        column=command.column,
        run=None if run is None else Path(run),
        ranking=command.ranking,
        name=command.name,
        root=command.data_root,
        device=command.device,
        on=command.at,
    )
    if run is not None and found.ranked is not None:
        scatter(Path(run) / f"{command.ranking}.png", {Path(run).name: found.ranked}, found.column)
    picture = score_scatter(command.out / f"{command.name}.png", found)
    print_scores(found, "no training" if run is None else f"no training, and {Path(run).name}")
    print(f"written: {command.out / command.name}.parquet, .json and {picture.name}")


def analyse(args: list[str]) -> None:
    """what a trained supernet's layers are given: nshot analyse shift RUN [RUN ...] [options]"""
    verb = args.pop(0) if args else "--help"
    if verb in ("-h", "--help"):
        print("usage: nshot analyse shift RUN [RUN ...] [options]")
    elif verb == "shift":
        _shift(args)
    else:
        raise UserError(f"unknown analysis {verb!r}: nshot analyse shift RUN")


def _shift(args: list[str]) -> None:
    from nshot.report.shift_plot import plot_shift, print_shift
    from nshot.supernets.shift import shift_runs

    runs = [Path(run) for run in leading(args)]

    @dataclass(frozen=True)
    class Shift(Where):
        paths: int = 400
        """Random paths, of which each makes pairs with those beside it."""
        images: int = 64
        """Validation images, in one batch."""
        seed: int = 0
        """Of the paths, the same for all runs."""
        name: str = "shift"
        """Names the files written to the run folders."""

    what = "How far each layer's inputs move for one image when the layers before it change: several runs in a picture."
    command = parse(Shift, args, "analyse shift RUNS...", what)
    found = shift_runs(
        runs,
        paths=command.paths,
        images=command.images,
        seed=command.seed,
        name=command.name,
        root=command.data_root,
        device=command.device,
    )
    short = {run.name for run in runs}
    titled = {run.name if len(short) == len(runs) else str(run): layers for run, layers in found.items()}
    picture = plot_shift(runs[0] / f"{command.name}.png", titled)
    print_shift(titled)
    print(f"written: {command.name}.json in each run, {picture}")
