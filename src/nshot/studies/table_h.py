"""Table H: the subnets that CaLR and MS found, retrained with a cosine or with CaLR."""

from .base import Measured, Row, Study, ours, studies
from .searched import searched

CALR = {"schedule": "calr", "complexity_of": "paper"}

TABLE_H = studies.register("table-h")(
    Study(
        "table-h",
        "Test accuracy of the searched subnet by the schedule of its retraining, NAS-Bench-201 space",
        (
            Row("SPOS + ours, cosine", Measured("spos", ours(), function=searched), (93.50, 0.33)),
            Row("SPOS + ours, CaLR", Measured("spos", ours(), function=searched, arguments=CALR), (90.51, 0.48)),
            Row("FairNAS + ours, cosine", Measured("fairnas", ours(), function=searched), (93.52, 0.50)),
            Row("FairNAS + ours, CaLR", Measured("fairnas", ours(), function=searched, arguments=CALR), (90.75, 0.27)),
            Row("FSNAS + ours, cosine", Measured("fsnas", ours(), function=searched), (93.63, 0.21)),
            Row("FSNAS + ours, CaLR", Measured("fsnas", ours(), function=searched, arguments=CALR), (90.24, 0.47)),
        ),
        measure="own",
    )
)
