"""Figure A: true accuracy of what a search answers by the time of the search."""

from dataclasses import replace

from .base import Study, studies
from .table_a import ROWS

FIGURE_A = studies.register("figure-a")(
    Study(
        "figure-a",
        "Test accuracy of the subnets that searches answer by the time of the search, NAS-Bench-201 space",
        tuple(replace(row, paper=()) for row in ROWS),
        measure="whole",
        note="Of this machine, one thread a run. The paper shows its times as a picture without numbers.",
        axes=("search of all (min)", "10 best (%)"),
    )
)
