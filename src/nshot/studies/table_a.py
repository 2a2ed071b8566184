"""Table A: what the searched subnets of the NAS-Bench-201 space reach on CIFAR-10, and the paper's other methods."""

from .base import Measured, Row, Study, ours, studies
from .searched import searched

FEW_SHOT, FAIR = "fsnas", "fairnas"
ROWS = (
    Row("SPOS", Measured("spos", function=searched), (93.12, 0.03)),
    Row("SPOS + ours", Measured("spos", ours(), function=searched), (93.50, 0.33)),
    Row("FairNAS, constant lr", Measured(FAIR, {"schedule": "constant"}, function=searched), (92.13, 0.18)),
    Row("FairNAS, cosine", Measured(FAIR, function=searched)),
    Row("FairNAS + ours", Measured(FAIR, ours(), function=searched), (93.52, 0.50)),
    Row("FSNAS", Measured(FEW_SHOT, function=searched), (93.43, 0.24)),
    Row("FSNAS + ours", Measured(FEW_SHOT, ours(), function=searched), (93.63, 0.21)),
)

TABLE_A = studies.register("table-a")(
    Study(
        "table-a",
        "Test accuracy of the searched subnet, NAS-Bench-201 space",
        ROWS,
        measure="searched",
        note=(
            "In the benchmark: the accuracy that its authors' training at full size gave the subnet that was found; "
            "retrained: at this scale."
        ),
        cited=(
            ("DARTS", (86.23, 4.93)),
            ("GDAS", (93.26, 0.32)),
            ("NSAS", (92.23, 0.10)),
            ("Cream", (92.83, 0.67)),
            ("SUMNAS", (93.09, 0.12)),
            ("PA&DA", (93.33, 0.22)),
        ),
    )
)
