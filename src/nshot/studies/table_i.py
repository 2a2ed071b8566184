"""Table I: mean gradient cosine similarity (MGCS) of subnets with 1, 3 and 5 edges changed."""

from .base import Measured, Row, Study, studies
from .gradients import similarity

TABLE_I = studies.register("table-i")(
    Study(
        "table-i",
        "Mean gradient cosine similarity with A0 (first layer, last epoch)",
        (Row("A1, A3, A5", Measured("spos", function=similarity), (0.60, 0.27, 0.09)),),
        measure="own",
        note="A0 and the edges that change are drawn from the seed; the paper shows one draw (figure D).",
    )
)
