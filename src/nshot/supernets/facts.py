"""What follows from a run's configuration, for those who read it."""

import dataclasses
from typing import Any

from nshot.strategies import Strategy

from .config import preset


def decay_facts(strategy: Strategy) -> dict[str, Any]:
    """What γ(α) of the run comes to, JSON-able; empty where the schedule has none.

    ``complexity_of`` and ``complexity_range`` say whose C(α) it is; ``mean_decay`` is the mean γ over the paths that
    are drawn, ``paper_mean_decay`` that in the whole space at the paper's sizes, for a space of the paper's whose small
    networks have other decisions.
    """
    options, space = strategy.options.resolved(strategy.space), strategy.space
    if not options.decays:
        return {}
    facts = {
        "complexity_of": options.complexity_of,
        "complexity_range": list(strategy.cost_range),
        "mean_decay": strategy.mean_decay,
    }
    if space.paper_sizes or "paper" not in space.presets:
        return facts
    paper = preset("paper", strategy.name, space.name).space
    if space.sizes() == paper.with_classes(space.num_classes).sizes():
        return facts
    whole = type(strategy)(
        paper, total_steps=1, options=dataclasses.replace(options, ms=None, min_flops=None, max_flops=None)
    )
    return {**facts, "paper_mean_decay": whole.mean_decay}


def told(facts: dict[str, Any]) -> str:
    """Those facts as a line."""
    low, high = facts["complexity_range"]
    whose = "the same subnet at the paper's sizes" if facts["complexity_of"] == "paper" else "this run's own networks"
    paper = f", {facts['paper_mean_decay']:.2f} at the paper's sizes" if "paper_mean_decay" in facts else ""
    return f"C(α) is that of {whose}, {low:,} to {high:,}; γ has mean {facts['mean_decay']:.2f} over the paths{paper}"
