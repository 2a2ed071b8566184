"""What a page says of a retrained network: what it is, how good it is, what it takes for what, how it was trained."""

import os
import shlex
from html import escape
from pathlib import Path
from typing import Any

from nshot.errors import UserError
from nshot.files import typed
from nshot.handover.verdict import baseline_name, read_verdict, warnings_of
from nshot.networks.result import RESULT, read_network
from nshot.runs.folder import read_config
from nshot.spaces import space_from_dict

from . import run_data
from .confusion import svg_of
from .draw import svg
from .markup import absent, charts, pairs, section, table

LISTED = 200  # classes at most that are all listed; of more, half as many


def is_retrained(folder: Path) -> bool:
    """Whether this is a retrained network's folder, finished or not."""
    if os.path.isfile(folder / RESULT):
        return True
    return os.path.isfile(folder / "config.json") and read_config(folder).get("kind") == "retrain"


def network_sections(folder: Path, data: dict[str, Any], job: str = "") -> list[str]:
    """What a page says of such a folder; ``data`` takes what its script draws. ``job`` is the command that goes on with
    it, where it is part of a whole job.

    Raises:
        UserError: for broken files.
    """
    name = typed(folder)
    if not (folder / RESULT).exists():
        subnet = shlex.quote(read_config(folder)["config"]["subnet"])
        again = job or f"nshot retrain {subnet} --out {name} [the same options]"
        open_ = absent("The retraining is not finished; the command that began it continues it:", again)
        return [section("Training", open_, _curves(folder, data))]
    _, result = read_network(folder)
    try:
        verdict = read_verdict(folder)
        good, *more = _verdict(verdict, name)
        parts = [good, _network(result, verdict), *more]
    except (KeyError, TypeError, IndexError) as error:
        again = f"make it again with nshot verdict {name}"
        raise UserError(f"{folder} has a broken verdict ({error}): {again}") from None
    hand = f"nshot export {name} --out NEW_FOLDER\nnshot predict {name} IMAGES --out table.csv"
    return [
        *parts,
        section(
            "Hand it over",
            "<p>As a folder that runs without nshot; or its answers here:</p>",
            f"<pre>{escape(hand)}</pre>",
        ),
        section("How it was trained", _how(folder, result), _curves(folder, data)),
    ]


def _network(result: dict[str, Any], verdict: dict[str, Any] | None) -> str:
    space = space_from_dict(result["space"])
    sizes = {key: str(value) for key, value in space.sizes().items() if key != "kept" or value}
    costs = {"parameters": f"{result['params']:,}", "FLOPs": f"{result['flops']:,}"}
    if verdict is not None:
        costs["latency"] = f"{verdict['latency_ms']:.3g} ms an image"
        costs["measured on"] = f"one thread of {verdict['latency']['cpu']}, torch {verdict['latency']['torch']}"
    chosen = ""
    if "test_accuracies" in result:
        count = len(result["test_accuracies"])
        chosen = f"<p>The best of {count} by test accuracy, which is too good by as much as chance helped it.</p>"
    return section(
        "The network",
        f"<p>A {escape(space.name)} network for {escape(result['dataset'])}.</p>{chosen}",
        pairs({**costs, **sizes}),
        svg(space.drawing(space.check(result["subnet"])), width=run_data.NARROW),
        f"<p><code>{escape(result['arch'])}</code></p>",
    )


def _verdict(verdict: dict[str, Any] | None, name: str) -> list[str]:
    if verdict is None:
        return [section("How good it is", absent("It is not judged. This judges it:", f"nshot verdict {name}"))]
    test = verdict["test"]
    rows = {"the network": test, **{baseline_name(key, row): row for key, row in verdict["baselines"].items()}}
    figures = table(
        ["", "accuracy %", "95 %", "balanced %"],
        [
            [
                escape(label),
                f"{row['accuracy']:.2f}",
                f"{row['low']:.2f} to {row['high']:.2f}",
                f"{row['balanced_accuracy']:.2f}",
            ]
            for label, row in rows.items()
        ],
    )
    loud = "".join(
        f'<p class="loud">{escape(warning[:1].upper() + warning[1:])}.</p>' for warning in warnings_of(verdict)
    )
    line = (
        f"{test['right']:,} of the {test['images']:,} test images are right. Balanced: the mean recall of the classes."
    )
    return [
        section("How good it is", loud, figures, f'<p class="soft">{escape(line)}</p>'),
        section("Which class is taken for which", f'<div class="drawn">{svg_of(verdict)}</div>', _classes(verdict)),
        section("The surest mistakes", _mistakes(verdict)),
    ]


def _classes(verdict: dict[str, Any]) -> str:
    rows = verdict["classes"]
    said = ""
    if len(rows) > LISTED:
        weakest = sorted((row for row in rows if row["images"]), key=lambda row: row["recall"])
        said = f'<p class="soft">The {LISTED // 2} of the lowest recall; verdict.json has all {len(rows):,}.</p>'
        rows = weakest[: LISTED // 2]
    return said + table(
        ["class", "images", "recall %", "-95 %", "precision %", "-said"],
        [
            [
                escape(row["name"]),
                f"{row['images']:,}",
                _percent(row["recall"]),
                f"{_percent(row['low'])} to {_percent(row['high'])}",
                _percent(row["precision"]),
                f"{row['said']:,}",
            ]
            for row in rows
        ],
    )


def _mistakes(verdict: dict[str, Any]) -> str:
    if not verdict["mistakes"]:
        return "<p>None of the test images is taken for another class.</p>"
    shots = [
        f'<figure><img src="data:image/png;base64,{escape(picture)}" alt="{escape(row["image"])}" '
        f'title="{escape(row["image"])}"><figcaption>{escape(row["class"])} taken for <b>{escape(row["said"])}</b>, '
        f"{100 * row['probability']:.0f} %</figcaption></figure>"
        for row, picture in zip(verdict["mistakes"], verdict["pictures"], strict=True)
    ]
    return f'<div class="shots">{"".join(shots)}</div>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _how(folder: Path, result: dict[str, Any]) -> str:
    stored = read_config(folder / result.get("folder", ""))
    config = stored.get("config", {})
    flat = {key: value for key, value in config.items() if not isinstance(value, dict) and key != "subnet"}
    recipe = dict(config.get("recipe", {}))
    flat |= recipe.pop("augment", {}) | recipe
    made = "Made with " + ", ".join(f"{name} {version}" for name, version in stored.get("versions", {}).items()) + "."
    return f'{pairs({key: str(value) for key, value in flat.items()})}<p class="soft">{escape(made)}</p>'


def _curves(folder: Path, data: dict[str, Any]) -> str:
    curves, damage = run_data.curves(folder), run_data.damage(folder)
    if not curves:
        return f'<p class="absent">{damage or "It has no log.jsonl."}</p>'
    return charts(curves, data, "network-", damage)
