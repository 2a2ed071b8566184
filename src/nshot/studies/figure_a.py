"""Figure A: accuracy of the searched subnet by the time of the search."""

from dataclasses import replace

from .base import Study, studies
from .table_a import ROWS

FIGURE_A = studies.register("figure-a")(
    Study(
        "figure-a",
        "Test accuracy of the searched subnet by the time of the search, NAS-Bench-201 space",
        tuple(replace(row, paper=()) for row in ROWS),
        measure="own",
        note="Of this machine, one thread a run. The paper shows its times as a picture without numbers.",
        axes=("search (min)", "retrained, test (%)"),
    )
)
