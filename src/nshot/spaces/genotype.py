"""DARTS's notation of its two cells, as its released code prints them."""

import ast
from typing import cast

from nshot.errors import UserError

from .darts_cells import KINDS, NODES, OPS, PAIRS, choices
from .decisions import Subnet

LONGEST = 10_000  # characters of a genotype; those that `genotype` writes are a tenth of it
DEEP = (RecursionError, MemoryError, SystemError)  # what Python's parser has for brackets in brackets in ...


def genotype(subnet: Subnet) -> str:
    """``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], ...)``."""
    parts = []
    for kind, name in enumerate(KINDS):
        entries = [f"({OPS[op]!r}, {source})" for node in choices(subnet, kind) for source, op in node]
        parts.append(f"{name}=[{', '.join(entries)}], {name}_concat=range(2, {2 + NODES})")
    return f"Genotype({', '.join(parts)})"


def from_genotype(text: str) -> Subnet:
    """The inverse of `genotype`. Raises UserError for what is none, and for cells that leave some nodes out."""
    try:
        if len(text) > LONGEST:
            raise ValueError
        call = ast.parse(text.strip(), mode="eval").body
        given = {word.arg: word.value for word in cast(ast.Call, call).keywords}
        cells = [ast.literal_eval(given[name]) for name in KINDS]
        nodes = [sorted(cell[2 * i : 2 * i + 2], key=lambda e: e[1]) for cell in cells for i in range(NODES)]
        if any(len(cell) != 2 * NODES for cell in cells):
            raise ValueError
        for name in KINDS:
            if (told := given.get(f"{name}_concat")) is not None and not _all_nodes(told):
                raise UserError(f"{name}_concat={ast.unparse(told):.40}: a cell gives all its nodes, range(2, 6)")
        subnet: list[int] = []
        for i, ((op_a, a), (op_b, b)) in enumerate(nodes):
            for op in (op_a, op_b):
                if op not in OPS:
                    raise UserError(f"unknown operation {op!r} in {text!r}: choose of {', '.join(OPS)}")
            pair = PAIRS[i % NODES].index((a, b))
            subnet += [*([pair] if i % NODES else []), OPS.index(op_a), OPS.index(op_b)]
    except UserError:
        raise
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError, IndexError, *DEEP):
        form = "Genotype(normal=[('sep_conv_3x3', 0), ...], reduce=[...])"
        raise UserError(f"{text[:LONGEST]!r} is no darts subnet: expected {form}, two inputs a node") from None
    return tuple(subnet)


def _all_nodes(told: ast.expr) -> bool:
    """Whether it says 2, 3, 4, 5, as a range or in any order."""
    if isinstance(told, ast.Call):
        return ast.unparse(told.func) == "range" and range(*map(ast.literal_eval, told.args)) == range(2, 2 + NODES)
    return sorted(ast.literal_eval(told)) == [*range(2, 2 + NODES)]
