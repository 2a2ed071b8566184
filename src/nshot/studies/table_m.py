"""Table M: the layer that clusters subnets for MS, on the MobileNet space."""

from .base import Measured, Row, Study, ours, studies
from .searched import retrained

SPACE = "mobilenet"
LENGTH = {"epochs": 480}  # of retraining at the paper's scale
LAST = Measured("spos", ours(ms="last"), space=SPACE, function=retrained, arguments=LENGTH)

TABLE_M = studies.register("table-m")(
    Study(
        "table-m",
        "Top-1 accuracy by the layer of MS, MobileNet space",
        (
            Row("SPOS-S", Measured("spos", space=SPACE, function=retrained, arguments=LENGTH), (74.6,)),
            Row(
                "SPOS-S + ours, first layer",
                Measured("spos", ours(), space=SPACE, function=retrained, arguments=LENGTH),
                (74.8,),
                against=("SPOS-S",),
            ),
            Row("SPOS-S + ours, last layer", LAST, (74.7,), against=("SPOS-S",)),
        ),
        measure="own",
        note="ImageNet at full scale was not run; the paper retrains for 480 epochs here.",
    )
)
