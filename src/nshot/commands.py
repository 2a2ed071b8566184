"""The commands around the main job: quickstart, verdict, hand-over, pictures, comparison, latency, tables, studies."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nshot.errors import UserError
from nshot.files import typed
from nshot.flags import Columns, Where, leading, parse, positional, take, take_space
from nshot.runs.where import On

if TYPE_CHECKING:
    from nshot.data.sources import Dataset

# Nothing that imports torch may be imported here: `nshot --help` must answer at once.


def quickstart(args: list[str]) -> None:
    """the whole job on embedded data, in under two minutes"""

    @dataclass(frozen=True)
    class Quickstart:
        out: Path = Path("runs/quickstart")
        """Folder for runs and pictures."""
        seed: int = 0

    command = parse(Quickstart, args, "quickstart", "SPOS and SPOS + CaLR + MS on digits: train, rank, pick, retrain.")
    from nshot.quickstart import quickstart

    quickstart(command.out, command.seed)


def verdict(args: list[str]) -> None:
    """how good a retrained network is: nshot verdict FOLDER [options]"""
    from nshot.data.sources import load
    from nshot.networks.result import read_network

    folder = positional(args, "verdict", "FOLDER: what nshot retrain wrote")
    what = "Judge a retrained network again on its test images, as nshot retrain does at its end."
    command = parse(Where, args, "verdict FOLDER", what)
    _, result = read_network(folder)
    data = load(result["dataset"], root=command.data_root, resolution=result["space"]["resolution"])
    judged(Path(folder), data, command.device, again=True)


def judged(folder: Path, data: "Dataset", device: str, *, again: bool = False) -> None:
    """Judges a retrained network, unless it is judged already, says how good it is and draws its confusion matrix."""
    from nshot.handover.verdict import VERDICT, judge, read_verdict
    from nshot.report.confusion import plot_confusion
    from nshot.report.tables import print_verdict

    found = None if again else read_verdict(folder)
    if found is None:
        found = judge(folder, data, device=device)
    print_verdict(found)
    picture = plot_confusion(folder / "confusion.png", found)
    print(f"written: {folder / VERDICT} and {picture.name}; as a page: nshot report {typed(folder)}")


def export(args: list[str]) -> None:
    """hand a retrained network over: nshot export FOLDER --out FOLDER [--to torch safetensors onnx]"""

    @dataclass(frozen=True)
    class Export:
        out: Path
        """Folder to write: a new or an empty one, or one that an earlier export wrote."""
        to: tuple[Literal["torch", "safetensors", "onnx"], ...] = ()
        """torch: model.py, which needs torch and Pillow alone, and weights.pt; safetensors: the weights as safetensors,
        with a model.py that needs that package too where there are no others; onnx: a graph from pixels to
        probabilities for any number of images, checked in onnxruntime. Default: all, ONNX where its packages are
        installed."""

    folder = positional(args, "export", "FOLDER: what nshot retrain wrote")
    command = parse(Export, args, "export FOLDER", "Hand a retrained network over: it runs without nshot.")
    from nshot.handover.export import export

    print(f"written: {', '.join(map(str, export(folder, command.out, command.to)))}")


def predict(args: list[str]) -> int:
    """classes and probabilities of images: nshot predict FOLDER IMAGES... [--out table.csv]"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Predict:
        images: Positional[tuple[Path, ...]]
        """Image files, and folders, whose images are taken by their endings, those in folders below too."""
        out: Path | None = None
        """A table to write, .csv: each file, its class and the probabilities of all classes."""
        device: str = "auto"
        """auto, cpu, cuda or mps."""

    folder = positional(args, "predict", "FOLDER: what nshot retrain or nshot export wrote")
    what = "Classes and probabilities of images. What cannot be read is named and left out; the exit status is then 1."
    command = parse(Predict, args, "predict FOLDER", what)
    from nshot.handover.predict import check_table, predict, write_table
    from nshot.report.tables import print_prediction

    if not command.images:
        raise UserError("nshot predict needs IMAGES: image files, or folders of them")
    if command.out is not None:
        check_table(command.out)
    found = predict(folder, command.images, device=command.device, each=print_prediction)
    if command.out is not None:
        write_table(command.out, found)
        print(f"written: {command.out}")
    return 1 if found.unread else 0


def draw(args: list[str]) -> None:
    """draw a subnet: nshot draw SUBNET|search.json|FOLDER [--space S] [--out FILE.svg|.png]"""
    from nshot.report.draw import draw, read_drawn
    from nshot.spaces import Space, list_spaces, space

    choice = positional(args, "draw", "SUBNET: its notation, released:N, a search.json, or a folder with one")
    named = take(args, "--space")
    default, arch = read_drawn(choice, space(named or "nasbench201"))
    if named not in (None, default.name):
        raise UserError(f"space {named!r}: {choice} is of the space {default.name}, leave out --space")

    @dataclass(frozen=True)
    class Draw:
        out: Path = Path("subnet.svg")
        """The picture, .svg or .png."""
        space: Space = field(default_factory=lambda: default)

    what = (
        "Draw a subnet. SUBNET: notation, released:N, search.json (the best), or a folder that nshot search or retrain "
        f"wrote to. Spaces (--space): {', '.join(list_spaces())}."
    )
    command = parse(Draw, args, "draw SUBNET", what)
    print(f"written: {draw(command.space, command.space.parse(arch), command.out)}")


def report(args: list[str]) -> None:
    """one HTML page of a run or a retrained network: nshot report FOLDER [--out FILE.html]"""

    @dataclass(frozen=True)
    class Report:
        out: Path | None = None
        """The page; default: report.html in the folder."""

    run = positional(args, "report", "FOLDER: what nshot train or nshot retrain made")
    what = (
        "One page, to be opened without a network: of a run what was run, curves, rankings, the search and its "
        "subnets; of a retrained network how good it is, its classes and mistakes."
    )
    command = parse(Report, args, "report FOLDER", what)
    from nshot.report.page import write_report

    print(f"written: {write_report(run, command.out)}")


def compare(args: list[str]) -> None:
    """whether one method ranks better than another: nshot compare RUNS... -- RUNS... [--ranking NAME]"""
    from nshot.report.tables import print_comparison

    first = [Path(run) for run in leading(args)]
    if args and args[0] == "--":
        args.pop(0)
    second = [Path(run) for run in leading(args)]

    @dataclass(frozen=True)
    class Compare:
        ranking: str = "ranking"
        """Which ranking of each run, as nshot rank --name has it."""
        score: Literal["accuracy", "loss"] = "accuracy"
        """The score whose tau is compared."""
        unpaired: bool = False
        """Do not pair runs of one seed."""

    what = (
        "Compare two groups of ranked runs, each of one method with several seeds: the second's tau minus the first's."
    )
    command = parse(Compare, args, "compare RUNS... -- RUNS...", what)
    from nshot.benchmarks.compare import compare_runs

    paired = not command.unpaired
    found = compare_runs(first, second, ranking=command.ranking, score=command.score, paired=paired)
    print_comparison(found, command.score)


def latency(args: list[str]) -> None:
    """measure what a run's subnets take on this machine: nshot latency RUN [--threads N] [--batch N]"""
    from nshot.report.tables import print_latency
    from nshot.search.latency import FILE, Setting, latency_of
    from nshot.supernets.load import load_run

    @dataclass(frozen=True)
    class Table:
        setting: Setting = field(default_factory=Setting)
        samples: int | None = None
        """Subnets measured for the table, of space timm for that of each side; default: three times as many as it has
        options."""

    run = Path(positional(args, "latency", "RUN: a folder that nshot train made"))
    what = "Measure latencies of stand-alone networks on this machine, for nshot search --max-latency."
    command = parse(Table, args, "latency RUN", what)
    config, _ = load_run(run)
    print_latency(latency_of(run, config.space.retrained, command.setting, samples=command.samples).table)
    print(f"written: {run / FILE}; search with: nshot search {typed(run)} --max-latency 3ms")


def benchmark(args: list[str]) -> None:
    """build a benchmark, or import an official one: nshot benchmark build|import [options]"""
    verbs = {"build": _benchmark_build, "import": _benchmark_import}
    verb = args.pop(0) if args else "--help"
    if verb in ("-h", "--help"):
        print("usage: nshot benchmark build --out FOLDER [options]")
        print("       nshot benchmark import FILE --out TABLE.parquet")
    elif verb in verbs:
        verbs[verb](args)
    else:
        raise UserError(f"unknown benchmark command {verb!r}: choose one of {', '.join(verbs)}")


def _benchmark_build(args: list[str]) -> None:
    from nshot.benchmarks.build import BuildConfig, build

    default = take_space(args, BuildConfig())

    @dataclass(frozen=True)
    class Build(Columns):
        out: Path
        """Work folder; a killed build of the same options continues there."""
        config: BuildConfig = field(default_factory=lambda: default)
        at: On = field(default_factory=On)
        data_root: Path | None = None
        """Where data sets lie; default: NSHOT_DATA, else ./data."""

    command = parse(Build, args, "benchmark build", "Train many stand-alone subnets and write a table of accuracies.")
    config = replace(command.config, dataset=command.named(command.config.dataset))
    table = build(config, command.out, root=command.data_root, on=command.at)
    print(f"written: {table}")


def _benchmark_import(args: list[str]) -> None:
    from nshot.benchmarks.nats import import_official

    @dataclass(frozen=True)
    class Import:
        out: Path
        """The parquet table to write."""

    file = positional(args, "benchmark import", "FILE: an official NAS-Bench-201 .pth, or a NATS-Bench file or folder")
    command = parse(Import, args, "benchmark import FILE", "Import official NAS-Bench-201 / NATS-Bench results.")
    print("reading the official results; a whole benchmark takes minutes")
    print(f"written: {import_official(Path(file), command.out)}")


def study(args: list[str]) -> None:
    """run a table or figure of the paper: nshot study table-j|...|all [--preset P] [--seeds N] [--jobs N]"""
    from nshot.studies.base import studies
    from nshot.studies.command import run_study

    names = studies.names()
    name = positional(args, "study", f"a table or figure: {', '.join(names)}, figure-c, or all")

    @dataclass(frozen=True)
    class Study:
        preset: str = "proxy"
        """smoke (digits, seconds), proxy (CIFAR-10 at 16 px), long, deep (its steps or depth the paper's) or paper."""
        seeds: int = 3
        """Seeds of each row, from 0."""
        at: On = field(default_factory=On)
        runs: Path = Path("runs/studies")
        """Where runs lie; two studies that need the same run share it, a killed one continues."""
        out: Path = Path("runs/studies/results")
        """Folder for the results: JSON, Markdown and a plot a table."""
        data_root: Path | None = None
        """Where data sets and benchmarks lie; default: NSHOT_DATA, else ./data."""
        only: str = ""
        """Only rows whose label begins with this, such as SPOS."""
        collect: bool = False
        """Run nothing, write the results of what is there."""

    command = parse(Study, args, f"study {name}", "Run what is behind a table or figure of the paper.")
    run_study(
        name,
        command.preset,
        seeds=command.seeds,
        on=command.at,
        runs=command.runs,
        out=command.out,
        root=command.data_root,
        only=command.only,
        run=not command.collect,
    )
