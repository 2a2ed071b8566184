"""Table J: no momentum, one momentum, one momentum a cluster."""

from . import settings as s
from .base import Row, Setting, Study, studies

TABLE_J = studies.register("table-j")(
    Study(
        "table-j",
        "Kendall's tau by momentum",
        (
            Row("SPOS, β = 0", Setting("spos", config=s.NO_MOMENTUM), (0.615, 0.046)),
            Row("SPOS, β = 0.9", s.SPOS, (0.751, 0.008), against=("SPOS, β = 0",)),
            Row("SPOS, MS", s.SPOS_MS, (0.772, 0.007), against=("SPOS, β = 0.9",)),
            Row("FairNAS, β = 0", Setting("fairnas", {"schedule": "constant"}, s.NO_MOMENTUM), (0.743, 0.022)),
            Row("FairNAS, β = 0.9, constant lr", s.FAIR, (0.766, 0.015)),
            Row("FairNAS, β = 0.9, cosine", s.FAIR_COSINE),
            Row("FairNAS, MS, constant lr", s.FAIR_MS, (0.784, 0.007), against=("FairNAS, β = 0.9, constant lr",)),
            Row("FairNAS, MS, cosine", s.FAIR_MS_COSINE, against=("FairNAS, β = 0.9, cosine",)),
            Row("FSNAS, β = 0", Setting("fsnas", config=s.NO_MOMENTUM), (0.616, 0.016)),
            Row("FSNAS, β = 0.9", s.FEW, (0.729, 0.019)),
            Row("FSNAS, MS", s.FEW_MS, (0.750, 0.024), against=("FSNAS, β = 0.9",)),
        ),
    )
)
