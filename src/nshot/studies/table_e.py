"""Table E: g of the decay ratio (eqs. i to iii), MS on everywhere; and the controls that the paper lacks."""

from . import settings as s
from .base import Row, Setting, Study, ours, studies

TABLE_E = studies.register("table-e")(
    Study(
        "table-e",
        "Kendall's tau by g of the decay ratio, MS on everywhere",
        (
            Row("SPOS + MS", s.SPOS_MS, (0.772, 0.007)),
            Row("SPOS + MS + CaLR, exp", Setting("spos", ours(g="exp")), (0.774, 0.018), against=("SPOS + MS",)),
            Row("SPOS + MS + CaLR, linear", Setting("spos", ours(g="linear")), (0.783, 0.013), against=("SPOS + MS",)),
            Row(
                "SPOS + MS + CaLR, log",
                s.SPOS_OURS,
                (0.814, 0.007),
                against=("SPOS + MS", "SPOS + MS, matched schedule (control)"),
            ),
            Row("SPOS + MS, matched schedule (control)", s.SPOS_MS_POWER, against=("SPOS + MS",)),
            Row("SPOS + MS, γ shuffled (control)", s.SPOS_MS_SHUFFLED, against=("SPOS + MS",)),
            Row("FairNAS + MS, constant lr", s.FAIR_MS, (0.784, 0.007)),
            Row("FairNAS + MS, cosine", s.FAIR_MS_COSINE),
            Row(
                "FairNAS + MS + CaLR, exp",
                Setting("fairnas", ours(g="exp")),
                (0.794, 0.016),
                against=("FairNAS + MS, cosine",),
            ),
            Row(
                "FairNAS + MS + CaLR, linear",
                Setting("fairnas", ours(g="linear")),
                (0.813, 0.011),
                against=("FairNAS + MS, cosine",),
            ),
            Row(
                "FairNAS + MS + CaLR, log",
                s.FAIR_OURS,
                (0.828, 0.020),
                against=("FairNAS + MS, constant lr", "FairNAS + MS, cosine"),
            ),
            Row("FSNAS + MS", s.FEW_MS, (0.750, 0.024)),
            Row("FSNAS + MS + CaLR, exp", Setting("fsnas", ours(g="exp")), (0.755, 0.015), against=("FSNAS + MS",)),
            Row(
                "FSNAS + MS + CaLR, linear", Setting("fsnas", ours(g="linear")), (0.763, 0.013), against=("FSNAS + MS",)
            ),
            Row("FSNAS + MS + CaLR, log", s.FEW_OURS, (0.767, 0.010), against=("FSNAS + MS",)),
        ),
    )
)
