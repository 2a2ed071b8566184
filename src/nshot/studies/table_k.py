"""Table K: γ', and the controls that tell complexity-awareness from a faster decay and from idle weights."""

from . import settings as s
from .base import Row, Setting, Study, ours, studies

REST = {"idle": "rest"}

TABLE_K = studies.register("table-k")(
    Study(
        "table-k",
        "Kendall's tau by γ', and controls",
        (
            Row("SPOS", s.SPOS, (0.751, 0.008)),
            Row("SPOS + ours, γ' = 2", Setting("spos", ours(gamma=2.0)), (0.787, 0.001)),
            Row("SPOS + ours, γ' = 3", Setting("spos", ours(gamma=3.0)), (0.797, 0.010)),
            Row("SPOS + ours, γ' = 4", s.SPOS_OURS, (0.814, 0.007)),
            Row("SPOS + MS (control)", s.SPOS_MS),
            Row("SPOS + CaLR (control)", s.SPOS_CALR),
            Row("SPOS, matched schedule (control)", s.SPOS_POWER),
            Row("SPOS + MS, matched schedule (control)", s.SPOS_MS_POWER),
            Row("SPOS + MS, γ shuffled (control)", s.SPOS_MS_SHUFFLED),
            Row("SPOS + MS, centred CaLR", s.SPOS_MS_CENTRED),
            Row("SPOS + MS at 1-t/T (control of centred)", s.SPOS_MS_LINE),
            Row("SPOS + ours, the proxy's own C(α)", Setting("spos", ours(complexity_of="own"))),
            Row("SPOS, idle weights rest (control)", Setting("spos", config=REST)),
            Row("SPOS + ours, idle weights rest (control)", Setting("spos", ours(), REST)),
        ),
        note=(
            "Matched: (1-t/T)^k with k the mean γ that CaLR has over the paths drawn, 2.18. Centred: γ divided by that "
            "mean, so that the rate falls as 1-t/T on average."
        ),
    )
)
