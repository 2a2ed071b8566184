"""The command line: one command a user task, its flags generated from the configuration dataclasses."""

import dataclasses
import errno
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from nshot import commands, plugins
from nshot.doctor import doctor, version_line
from nshot.errors import UserError, out_of_memory
from nshot.files import read_parquet, shown, too_long, typed
from nshot.flags import Columns, Download, Scored, Where, Workers, parse, positional, take
from nshot.measures import analyse, score
from nshot.retraining import retrain
from nshot.runs.stopping import Stopped, answered
from nshot.runs.where import On

# Nothing that imports torch may be imported here: `nshot --help` must answer at once.


def auto(args: list[str]) -> None:
    """from images to a network that runs elsewhere: nshot auto imagefolder:FOLDER --out FOLDER [--max-params 300k]"""
    from nshot.auto.command import auto

    auto(args)


def train(args: list[str]) -> None:
    """train a supernet: nshot train STRATEGY --out RUN [--preset P] [--space S] [options]"""
    from nshot.benchmarks.table import benchmark_of
    from nshot.data.sources import load
    from nshot.spaces import list_spaces
    from nshot.strategies import list_strategies
    from nshot.supernets.config import PRESETS, TrainConfig, preset
    from nshot.supernets.train import train
    from nshot.training.distributed import rank

    preset_name = take(args, "--preset") or "paper"
    strategy = args.pop(0) if args and not args[0].startswith("-") else "spos"
    default = preset(preset_name, strategy, take(args, "--space") or "nasbench201")

    @dataclass(frozen=True)
    class Train(Where, Download, Workers, Columns):
        out: Path
        """Run folder; an unfinished run of the same options there is continued."""
        config: TrainConfig = field(default_factory=lambda: default)
        at: On = field(default_factory=On)
        """Where several supernets of one method are trained."""

    what = (
        f"Train a supernet by {strategy}, from the preset {preset_name}; options override it. Strategies: "
        f"{', '.join(list_strategies())}. Presets (--preset): {', '.join(PRESETS)}. Spaces (--space): "
        f"{', '.join(list_spaces())}."
    )
    command = parse(Train, args, f"train {strategy}", what)
    config = dataclasses.replace(command.config, dataset=command.named(command.config.dataset))
    data = load(
        config.dataset,
        root=command.data_root,
        split=config.split,
        download=command.download,
        resolution=config.space.resolution,
        say=print if rank() == 0 else lambda line: None,
    )
    config = dataclasses.replace(config, space=config.space.with_classes(data.classes))
    train(config, data, command.out, device=command.device, on=command.at, workers=command.workers)
    if rank() == 0:
        known = benchmark_of(config.dataset, config.space, command.data_root)
        then = f"rank {typed(command.out)} --benchmark {known}" if known else f"search {typed(command.out)}"
        print(f"trained: {command.out}; go on with: nshot {then}")


def rank(args: list[str]) -> None:
    """rank a run's subnets against a benchmark: nshot rank RUN --benchmark B [options]"""
    from nshot.benchmarks.rank import rank_run
    from nshot.report.plots import scatter
    from nshot.report.tables import print_ranking

    @dataclass(frozen=True)
    class Rank(Where, Scored):
        benchmark: str
        """digits (embedded), nasbench201 (under the data root), or a parquet file."""
        subnets: Path | None = None
        """JSON list of the subnets to rank: a path, or one under the data root. Numbers in it need their order:
        released:PATH, or nats:PATH where the benchmark was imported."""
        sample: int | None = None
        """Without --subnets: how many random subnets of the benchmark, 0 for all; default: 1,000."""
        column: str | None = None
        """The benchmark's column of true accuracies; default: <dataset>_test."""
        name: str = "ranking"
        """Names the files written to the run folder."""
        at: On = field(default_factory=On)
        """Where subnets are scored."""

    run = Path(positional(args, "rank", "RUN: a folder that nshot train made"))
    command = parse(Rank, args, "rank RUN", "Rank a run's subnets against a benchmark of true accuracies.")
    ranking, truth = rank_run(
        run,
        command.benchmark,
        subnets=command.subnets,
        sample=command.sample,
        column=command.column,
        images=command.images,
        calibration=command.calibration,
        name=command.name,
        root=command.data_root,
        device=command.device,
        on=command.at,
    )
    picture = scatter(run / f"{command.name}.png", {run.name: ranking}, truth)
    print_ranking({run.name: ranking}, truth)
    print(f"written: {run / command.name}.parquet, .json and {picture.name}")


def search(args: list[str]) -> None:
    """pick a run's best subnet under limits: nshot search RUN [--method M] [--max-params 1.2M] [options]"""
    from nshot.report.search_plot import plot_search
    from nshot.report.tables import print_search
    from nshot.search.limits import Limits
    from nshot.search.pick import NAME, How, search_run

    @dataclass(frozen=True)
    class Search(Where, Scored):
        how: How = field(default_factory=How)
        subnets: Path | None = None
        """Instead: a JSON list of subnets (a path, or one under the data root; released:PATH where it has numbers);
        those within the limits are scored."""
        max_params: str | None = None
        """Most parameters of the stand-alone network, such as 1.2M."""
        min_params: str | None = None
        """Fewest parameters of the stand-alone network."""
        max_flops: str | None = None
        """Most multiply-accumulates of one image, such as 60M."""
        max_latency: str | None = None
        """Longest time of the stand-alone network on this machine, such as 3ms; see nshot latency."""
        by: Literal["accuracy", "loss"] = "accuracy"
        """The score on held-out images; ties of one are broken by the other."""
        name: str = NAME
        """Names the files written to the run folder; the same search is made again, another one needs another name."""
        at: On = field(default_factory=On)
        """Where subnets are scored."""

    run = Path(positional(args, "search", "RUN: a folder that nshot train made"))
    command = parse(Search, args, "search RUN", "Search a trained supernet's best subnet, under limits.")
    result = search_run(
        run,
        Limits.of(command.max_params, command.max_flops, command.min_params, command.max_latency),
        command.how,
        subnets=command.subnets,
        by=command.by,
        images=command.images,
        calibration=command.calibration,
        name=command.name,
        root=command.data_root,
        device=command.device,
        on=command.at,
    )
    print_search(result)
    found = run / f"{command.name}.json"
    scored = found.with_suffix(".parquet")
    picture = plot_search(found.with_suffix(".png"), result, read_parquet(scored).to_pydict())
    print(
        f"written: {found}, {scored.name} and {picture.name}; retrain the best with: "
        f"nshot retrain {typed(found)} --out NEW_FOLDER"
    )


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "quickstart": commands.quickstart,
    "auto": auto,
    "train": train,
    "rank": rank,
    "compare": commands.compare,
    "score": score,
    "analyse": analyse,
    "search": search,
    "latency": commands.latency,
    "retrain": retrain,
    "verdict": commands.verdict,
    "export": commands.export,
    "predict": commands.predict,
    "draw": commands.draw,
    "report": commands.report,
    "benchmark": commands.benchmark,
    "study": commands.study,
    "doctor": doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command; a user's error is one line on stderr and exit status 2, a part that could not be done 1.

    One that is told to stop (`nshot.runs.stopping`) exits with 130, 143 or 75.
    """
    warnings.formatwarning = _in_one_line
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of any bytes, and terminals without Greek letters
    try:
        with answered():
            status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"nshot: error: {shown(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"nshot: stopped by {stopped.name}; the same command continues", file=sys.stderr)
        return stopped.status
    except BrokenPipeError:  # who read the output has enough of it, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        return 1
    except (MemoryError, RuntimeError) as error:
        if (told := out_of_memory(error)) is None:
            raise
        print(f"nshot: error: {told}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            line = str(too_long(error))
        elif error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None:
            where = shown(os.fsdecode(error.filename))
            line = f"{where}: {error.strerror}; choose a place that you may read and write, or have it opened to you"
        else:
            raise
        print(f"nshot: error: {line}", file=sys.stderr)
        return 2


_FORMAT = warnings.formatwarning


def _in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What nshot itself warns of, without the line of code that does."""
    ours = Path(filename).is_relative_to(Path(__file__).parent)
    return f"nshot: {message}\n" if ours else _FORMAT(message, category, filename, lineno, line)


def _run(args: list[str]) -> int:
    while (file := take(args, "--plugin")) is not None:
        plugins.add(Path(file))
    if not args or args[0] in ("-h", "--help"):
        print("usage: nshot COMMAND [options]    (nshot COMMAND --help for a command's options)\n")
        for name, command in COMMANDS.items():
            print(f"  {name:11} {(command.__doc__ or '').strip()}")
        print("\nWith every command: --plugin FILE.py, a space, method or data set of your own (docs/design.md).")
    elif args[0] == "--version":
        print(version_line())
    elif args[0] in COMMANDS:
        if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1 and args[0] != "train":
            if os.environ.get("RANK", "0") != "0":
                return 0  # torchrun ends all when one fails: the first would go unheard
            raise UserError(f"{processes} processes: nshot {args[0]} is the work of one, start it without torchrun")
        return COMMANDS[args[0]](args[1:]) or 0
    else:
        raise UserError(f"unknown command {args[0]!r}: choose one of {', '.join(COMMANDS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
