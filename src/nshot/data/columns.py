"""Which columns of a parquet file are the images and the labels: what its schema tells; nothing is guessed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nshot.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = ("label", "labels")  # a column so named holds the labels, unless the schema tells otherwise


@dataclass(frozen=True)
class Columns:
    """The names of two columns, and of the classes where the schema tells them."""

    image: str
    label: str
    names: tuple[str, ...]


def columns_of(path: Path, schema: "pa.Schema", image: str | None = None, label: str | None = None) -> Columns:
    """The columns of a file.

    The schema's ``huggingface`` metadata tells which are images and which class labels. Without it, images are what
    holds bytes, and labels a column of numbers or texts that is named ``label`` or ``labels``, or the only one.

    Args:
        path: the file, for errors.
        schema: its.
        image, label: the columns, where the user names them.

    Raises:
        UserError: for a named column that is not there or cannot hold such a thing, and where not exactly one can be
            meant.
    """
    told = _features(schema)
    bytes_ = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    images = _of_type(told, "Image") or bytes_
    possible = [name for name in schema.names if name not in images and _holds_labels(schema.field(name).type)]
    labels = _of_type(told, "ClassLabel")
    # Beside class labels of another name, what is plainly called the label may be meant as well.
    labels += [name for name in possible if name in LABELS and name not in labels]
    image = _one(path, schema, "image", images, [*images, *bytes_], image)
    label = _one(path, schema, "label", labels or possible, possible, label)
    return Columns(image, label, tuple(map(str, told.get(label, {}).get("names") or ())))


def _one(
    path: Path, schema: "pa.Schema", what: str, found: Sequence[str], possible: Sequence[str], named: str | None
) -> str:
    every = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names)
    flag = f"--{what}-column"
    if named is not None:
        if named not in possible:
            why = f"cannot be the {what}s" if named in schema.names else "is not there"
            raise UserError(f"{what} column {named!r} {why}: {path} has the columns {every}")
        return named
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"data file {path} has {what}s in {' and '.join(found)}: say which by {flag}")
    raise UserError(f"data file {path} has columns {every}: none can be the {what}s")


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """What the library that wrote the file says of its columns."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored)["info"]["features"] if stored else {}
        return {name: told for name, told in features.items() if isinstance(told, dict) and name in schema.names}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # such metadata is a help, nothing more


def _of_type(told: dict[str, dict[str, Any]], kind: str) -> list[str]:
    return [name for name, feature in told.items() if feature.get("_type") == kind]


def _holds_bytes(kind: "pa.DataType") -> bool:
    """Encoded images, or with their names: a struct of ``bytes`` and ``path``."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(part.name == "bytes" and _holds_bytes(part.type) for part in kind)
    return str(kind) in ("binary", "large_binary", "binary_view")


def _holds_labels(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_integer(plain) or holds_texts(plain)


def holds_texts(kind: "pa.DataType") -> bool:
    """Texts, or yes and no."""
    return str(kind) in ("string", "large_string", "string_view", "bool")
