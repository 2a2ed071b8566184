"""A benchmark is a parquet table ``arch, params, <dataset>_valid, <dataset>_test``: true accuracies in percent."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nshot.data.sources import data_root
from nshot.errors import UserError
from nshot.files import read_parquet, write_parquet
from nshot.spaces import Space, Subnet
from nshot.spaces.lists import ORDERS

if TYPE_CHECKING:
    import pyarrow as pa

EMBEDDED = Path(__file__).with_name("digits.parquet")
METADATA = b"nshot"


@dataclass(frozen=True)
class Benchmark:
    """True accuracies of subnets of one space.

    ``columns`` maps each ``<dataset>_<part>`` to accuracies in percent, in the order of ``subnets``. ``metadata`` is
    what the table says of itself (space, recipe, seeds), empty for tables that nshot did not write. ``numbered`` has
    for each order that it has a column of (``nats``) the subnet of each number.
    """

    name: str
    subnets: list[Subnet]
    columns: dict[str, np.ndarray]
    metadata: dict[str, Any]
    numbered: dict[str, dict[int, Subnet]] = field(default_factory=dict)

    def truth(self, column: str, subnets: Sequence[Subnet]) -> np.ndarray:
        """True accuracies of these subnets. Raises UserError for an unknown column, or subnets that are not listed."""
        if column not in self.columns:
            raise UserError(f"benchmark {self.name} has no column {column!r}: choose one of {', '.join(self.columns)}")
        rows = {subnet: row for row, subnet in enumerate(self.subnets)}
        missing = [subnet for subnet in subnets if subnet not in rows]
        if missing:
            raise UserError(f"benchmark {self.name} lacks {len(missing)} of the subnets, such as {missing[0]}")
        return self.columns[column][[rows[subnet] for subnet in subnets]]


def benchmark_path(name: str, root: str | Path | None = None) -> Path:
    """Where a benchmark lies: ``digits`` is embedded, ``nasbench201`` lies under the data root, else it is a path."""
    if name == "digits":
        return EMBEDDED
    if name == "nasbench201":
        return data_root(root) / "nasbench201" / "table.parquet"
    return Path(name)


def read_benchmark(name: str, space: Space, root: str | Path | None = None) -> Benchmark:
    """The benchmark of that name or file, for subnets of ``space``: of a restricted one, the rows that are inside.

    What a table says of its networks must be so of those of the space, or of those that it stands for
    (`Space.represented`): all sizes but the number of classes, which its columns' data sets say. The resolution may
    also be the paper's, where the other sizes are. A table that names its space alone, an imported one, is of the
    paper's sizes, at any resolution; one that says nothing of itself is taken as it is.

    Raises:
        UserError: for a file that is missing, broken, without the columns, of another space or other sizes, or with
            rows that cannot be true accuracies (none at all or none inside, a subnet twice, a number missing).
    """
    path = benchmark_path(name, root)
    if not path.exists():
        raise UserError(f"benchmark {name!r} not found at {path}: name digits, a file, or nasbench201 with a data root")
    try:
        table = read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"benchmark {path} cannot be read ({error}): it must be a parquet file") from None
    names = [c for c in table.column_names if c.endswith(("_valid", "_test"))]
    if "arch" not in table.column_names or not names:
        raise UserError(
            f"benchmark {path} has columns {', '.join(table.column_names)}: expected arch and <dataset>_valid or _test"
        )
    try:
        metadata = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        described = dict(metadata.get("space", {"name": space.name}))
        of = described.pop("name")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"benchmark {path} has broken metadata ({error}): build or import it again") from None
    if of != space.name:
        raise UserError(f"benchmark {path} is of space {of}, not {space.name}: name one of {space.name}")
    if "space" in metadata:
        _check_sizes(path, described, space)
    whole = replace(space, kept=())  # where an option has the same index
    try:
        subnets = [whole.parse(str(arch)) for arch in table.column("arch").to_pylist()]
    except UserError as error:
        raise UserError(f"benchmark {path} is not of space {space.name}: {error}") from None
    _check_rows(path, whole, subnets)
    numbered = {c: _numbers(path, c, table.column(c), subnets) for c in ORDERS if c in table.column_names}
    columns = {c: _accuracies(path, c, table.column(c)) for c in names}
    return _inside(path, space, Benchmark(name, subnets, columns, metadata, numbered))


def benchmark_of(dataset: str, space: Space, root: str | Path | None = None) -> str | None:
    """The benchmark that has accuracies of a data set's networks, of that space and here; None: there is none."""
    for name in ("digits", "nasbench201"):
        with suppress(UserError):  # of another space or other sizes, or not on this machine
            if f"{dataset}_test" in read_benchmark(name, space, root).columns:
                return name
    return None


def _inside(path: Path, space: Space, whole: Benchmark) -> Benchmark:
    """Of a benchmark the rows that are in a restricted space."""
    if not space.kept:
        return whole
    rows = [row for row, subnet in enumerate(whole.subnets) if subnet in space]
    if not rows:
        raise UserError(f"benchmark {path} has none of the {space.size:,} subnets of the part of {space.name}")
    return replace(
        whole,
        subnets=[whole.subnets[row] for row in rows],
        columns={name: values[rows] for name, values in whole.columns.items()},
    )


def _check_sizes(path: Path, stated: dict[str, Any], space: Space) -> None:
    """Raises UserError where a table of the sizes ``stated`` is not right for the space, see `read_benchmark`."""
    paper = _plain({f.name: f.default for f in fields(space) if f.default is not MISSING})
    apart = {"num_classes", "kept", "resolution", *space.supernet_sizes}

    def networks(sizes: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in sizes.items() if name not in apart}

    table, own, stands_for = (
        {**paper, **_plain(sizes)} for sizes in (stated, space.sizes(), space.represented.sizes())
    )
    pixels = [own["resolution"], *([paper["resolution"]] if networks(table) == networks(paper) else [])]
    fits = networks(table) in (networks(own), networks(stands_for))
    if fits and stated.get("resolution", own["resolution"]) in pixels:
        return
    differing = [name for name in networks(table) if not table[name] == own.get(name) == stands_for.get(name)]
    names = ["resolution"] if fits else differing
    also = _listed(stands_for, names)
    proxy = "" if also == _listed(own, names) else f", which stand for {also}"
    raise UserError(
        f"benchmark {path} is of networks of {_listed(table, names)}, the run's are of {_listed(own, names)}{proxy}: "
        "name one of the run's sizes (nshot benchmark build makes it), or write this one without its metadata to take "
        "it all the same"
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))  # as a table's metadata: tuples are lists


def _listed(sizes: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {sizes.get(name)}" for name in names)


def _check_rows(path: Path, space: Space, subnets: list[Subnet]) -> None:
    if not subnets:
        raise UserError(f"benchmark {path} has no rows: build or import it again")
    seen: set[Subnet] = set()
    for subnet in subnets:
        if subnet in seen:
            raise UserError(f"benchmark {path} lists {space.format(subnet)} twice: leave one row a subnet")
        seen.add(subnet)


def _accuracies(path: Path, name: str, column: "pa.ChunkedArray") -> np.ndarray:
    try:
        values = column.to_numpy().astype(np.float64)
    except (ValueError, TypeError):
        raise UserError(f"benchmark {path} has no numbers in column {name!r}: expected accuracies in percent") from None
    if not np.isfinite(values).all():
        raise UserError(f"benchmark {path} lacks {(~np.isfinite(values)).sum()} accuracies in column {name!r}")
    return values


def _numbers(path: Path, name: str, column: "pa.ChunkedArray", subnets: list[Subnet]) -> dict[int, Subnet]:
    found = dict(zip(column.to_pylist(), subnets, strict=True))
    if len(found) < len(subnets) or not all(isinstance(number, int) for number in found):
        raise UserError(f"benchmark {path} has no distinct whole numbers in column {name!r}: import it again")
    return found


def write_benchmark(
    path: Path,
    space: Space,
    subnets: Sequence[Subnet],
    columns: dict[str, np.ndarray],
    metadata: dict[str, Any],
    order: str | None = None,
) -> None:
    """Writes the table atomically: ``arch``, ``params`` (of the stand-alone network) and the accuracies, in float32.

    ``order`` names one of `ORDERS` in which the subnets are; their numbers, from 0, are then a column of that name.
    """
    import pyarrow as pa

    table = pa.table(
        {
            "arch": [space.format(subnet) for subnet in subnets],
            "params": [space.network_params(subnet) for subnet in subnets],
            **({order: range(len(subnets))} if order else {}),
            **{name: values.astype(np.float32) for name, values in columns.items()},
        }
    )
    described = table.replace_schema_metadata({METADATA: json.dumps(metadata).encode()})
    write_parquet(path, described)
