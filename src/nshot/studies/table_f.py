"""Table F: complexity by parameters or by FLOPs."""

from . import settings as s
from .base import Row, Setting, Study, ours, studies

TABLE_F = studies.register("table-f")(
    Study(
        "table-f",
        "Kendall's tau by the measure of complexity",
        (
            Row("SPOS", s.SPOS, (0.751, 0.008)),
            Row("SPOS + ours, params", s.SPOS_OURS, (0.814, 0.007), against=("SPOS",)),
            Row("SPOS + ours, FLOPs", Setting("spos", ours(complexity="flops")), (0.783, 0.015), against=("SPOS",)),
            Row("FairNAS, constant lr", s.FAIR, (0.766, 0.015)),
            Row("FairNAS, cosine", s.FAIR_COSINE),
            Row(
                "FairNAS + ours, params",
                s.FAIR_OURS,
                (0.828, 0.020),
                against=("FairNAS, constant lr", "FairNAS, cosine"),
            ),
            Row(
                "FairNAS + ours, FLOPs",
                Setting("fairnas", ours(complexity="flops")),
                (0.812, 0.017),
                against=("FairNAS, constant lr", "FairNAS, cosine"),
            ),
            Row("FSNAS", s.FEW, (0.729, 0.019)),
            Row("FSNAS + ours, params", s.FEW_OURS, (0.767, 0.010), against=("FSNAS",)),
            Row("FSNAS + ours, FLOPs", Setting("fsnas", ours(complexity="flops")), (0.756, 0.010), against=("FSNAS",)),
        ),
    )
)
