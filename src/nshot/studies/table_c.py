"""Table C: the AutoFormer space on ImageNet under three limits of parameters, with supernet weights."""

from .base import Measured, Row, Study, ours, studies
from .searched import limited

LIMITS = {"limits": (6.0, 7.5, 9.0)}
SPACE = "autoformer"

TABLE_C = studies.register("table-c")(
    Study(
        "table-c",
        "Accuracy under limits of parameters, AutoFormer space",
        (
            Row("AutoFormer", Measured("spos", space=SPACE, function=limited, arguments=LIMITS), (74.5, 76.0, 76.5)),
            Row(
                "AutoFormer + ours",
                Measured("spos", ours(), space=SPACE, function=limited, arguments=LIMITS),
                (74.8, 76.3, 76.7),
                ("AutoFormer",),
            ),
        ),
        measure="own",
        note="ImageNet at full scale was not run; here the limits are the same shares of the space's range.",
    )
)
