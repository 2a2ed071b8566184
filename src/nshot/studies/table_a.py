"""Table A: what searches of the NAS-Bench-201 space answer on CIFAR-10, and the paper's other methods."""

from .base import Measured, Row, Study, ours, studies
from .whole import whole

FEW_SHOT, FAIR = "fsnas", "fairnas"
ROWS = (
    Row("SPOS", Measured("spos", function=whole), (93.12, 0.03)),
    Row("SPOS + ours", Measured("spos", ours(), function=whole), (93.50, 0.33), against=("SPOS",)),
    Row("FairNAS, constant lr", Measured(FAIR, {"schedule": "constant"}, function=whole), (92.13, 0.18)),
    Row("FairNAS, cosine", Measured(FAIR, function=whole)),
    Row(
        "FairNAS + ours",
        Measured(FAIR, ours(), function=whole),
        (93.52, 0.50),
        against=("FairNAS, constant lr", "FairNAS, cosine"),
    ),
    Row("FSNAS", Measured(FEW_SHOT, function=whole), (93.43, 0.24)),
    Row("FSNAS + ours", Measured(FEW_SHOT, ours(), function=whole), (93.63, 0.21), against=("FSNAS",)),
)

TABLE_A = studies.register("table-a")(
    Study(
        "table-a",
        "Test accuracy of the subnets that searches answer, NAS-Bench-201 space",
        ROWS,
        measure="whole",
        note=(
            "True accuracies are the benchmark's, of networks that its authors trained alone at full size. Best of n: "
            "what searches of n random subnets answer, 1,000 draws of them from the scores of the whole space on 2,048 "
            "images; 5, 50 and 95 % are their percentiles. Best, 10 best, rank and tau are of the whole space."
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
