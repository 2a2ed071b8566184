"""Table G: paths drawn in proportion to their parameters, against CaLR; MS on everywhere."""

from . import settings as s
from .base import Row, Setting, Study, studies

PROPORTIONAL = {"sampling": "proportional"} | s.MS

TABLE_G = studies.register("table-g")(
    Study(
        "table-g",
        "Kendall's tau by sampling and schedule, MS on everywhere",
        (
            Row("SPOS, uniform, cosine", s.SPOS_MS, (0.772, 0.007)),
            Row(
                "SPOS, by params, cosine",
                Setting("spos", PROPORTIONAL),
                (0.784, 0.012),
                against=("SPOS, uniform, cosine",),
            ),
            Row(
                "SPOS, uniform, CaLR",
                s.SPOS_OURS,
                (0.814, 0.007),
                against=("SPOS, uniform, cosine", "SPOS, by params, cosine"),
            ),
            Row("FairNAS, uniform, constant lr", s.FAIR_MS, (0.784, 0.007)),
            Row("FairNAS, uniform, cosine", s.FAIR_MS_COSINE),
            Row(
                "FairNAS, uniform, CaLR",
                s.FAIR_OURS,
                (0.828, 0.020),
                against=("FairNAS, uniform, constant lr", "FairNAS, uniform, cosine"),
            ),
            Row("FSNAS, uniform, cosine", s.FEW_MS, (0.750, 0.024)),
            Row(
                "FSNAS, by params, cosine",
                Setting("fsnas", PROPORTIONAL),
                (0.761, 0.011),
                against=("FSNAS, uniform, cosine",),
            ),
            Row("FSNAS, uniform, CaLR", s.FEW_OURS, (0.767, 0.010), against=("FSNAS, uniform, cosine",)),
        ),
        note=(
            "The paper's row FairNAS by params (0.811 ± 0.013) is not run: the paths of a FairNAS step use every "
            "operation of every edge once (but of the MS edge, which they share), so steps hardly differ in the sum of "
            "their parameters."
        ),
    )
)
