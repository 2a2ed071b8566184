"""Table B: CIFAR-10 in the DARTS space, the best of 1,000 random subnets retrained."""

from .base import Measured, Row, Study, ours, studies
from .searched import retrained

TABLE_B = studies.register("table-b")(
    Study(
        "table-b",
        "Test accuracy on CIFAR-10, DARTS space",
        (
            Row("SPOS, DARTS space", Measured("spos", space="darts", function=retrained), (96.1,)),
            Row(
                "SPOS + ours, DARTS space",
                Measured("spos", ours(), space="darts", function=retrained),
                (96.3,),
                against=("SPOS, DARTS space",),
            ),
        ),
        measure="own",
        note="Not run at full scale; the paper retrains 20 cells for 200 epochs with drop-path and cutout.",
    )
)
