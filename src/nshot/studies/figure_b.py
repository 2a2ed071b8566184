"""Figure B: standard deviation of the gradients that feed one momentum: SPOS, MS, and random clusters."""

from . import settings as s
from .base import Measured, Row, Study, studies
from .gradients import spread

FIGURE_B = studies.register("figure-b")(
    Study(
        "figure-b",
        "Standard deviation of the gradients of a momentum",
        (
            Row("SPOS", Measured("spos", function=spread)),
            Row("SPOS + MS", Measured("spos", s.MS, function=spread), against=("SPOS",)),
            Row(
                "SPOS, random clusters (control)",
                Measured("spos", {"ms": "shuffled"}, function=spread),
                against=("SPOS + MS",),
            ),
        ),
        measure="own",
        note="The paper shows curves without numbers; `ranking/gradients.py` has our definition.",
    )
)
