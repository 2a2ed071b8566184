"""Table D: complexity bias CB and complexity-convergence correlation C³, by data set."""

from . import settings as s
from .base import Row, Study, studies

TABLE_D = studies.register("table-d")(
    Study(
        "table-d",
        "Complexity bias CB and correlation C³ (CIFAR-10, CIFAR-100, ImageNet16-120)",
        (
            Row("SPOS", s.SPOS, (0.76, -0.19, 0.84, -0.25, 0.81, -0.22)),
            Row(
                "SPOS + CaLR",
                s.SPOS_CALR,
                (0.63, -0.09, 0.70, -0.11, 0.68, -0.10),
                against=("SPOS", "SPOS, matched schedule (control)"),
            ),
            Row("SPOS, matched schedule (control)", s.SPOS_POWER, against=("SPOS",)),
            Row("FairNAS, constant lr", s.FAIR, (0.72, -0.13, 0.69, -0.16, 0.73, -0.15)),
            Row("FairNAS, cosine", s.FAIR_COSINE),
            Row(
                "FairNAS + CaLR",
                s.FAIR_CALR,
                (0.62, -0.06, 0.60, -0.10, 0.65, -0.08),
                against=("FairNAS, constant lr", "FairNAS, cosine"),
            ),
            Row("FSNAS", s.FEW, (0.79, -0.21, 0.82, -0.24, 0.80, -0.22)),
            Row("FSNAS + CaLR", s.FEW_CALR, (0.63, -0.10, 0.66, -0.11, 0.65, -0.05), against=("FSNAS",)),
        ),
        measure="bias",
    )
)
