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
            Row("SPOS + ours, γ' = 2", Setting("spos", ours(gamma=2.0)), (0.787, 0.001), against=("SPOS",)),
            Row("SPOS + ours, γ' = 3", Setting("spos", ours(gamma=3.0)), (0.797, 0.010), against=("SPOS",)),
            Row(
                "SPOS + ours, γ' = 4",
                s.SPOS_OURS,
                (0.814, 0.007),
                against=(
                    "SPOS",
                    "SPOS + MS (control)",
                    "SPOS + MS, matched schedule (control)",
                    "SPOS + MS, γ shuffled (control)",
                ),
            ),
            Row("SPOS + MS (control)", s.SPOS_MS, against=("SPOS",)),
            Row("SPOS + CaLR (control)", s.SPOS_CALR, against=("SPOS", "SPOS, matched schedule (control)")),
            Row("SPOS, matched schedule (control)", s.SPOS_POWER, against=("SPOS",)),
            Row("SPOS + MS, matched schedule (control)", s.SPOS_MS_POWER, against=("SPOS",)),
            Row("SPOS + MS, γ shuffled (control)", s.SPOS_MS_SHUFFLED),
            Row(
                "SPOS + MS, centred CaLR",
                s.SPOS_MS_CENTRED,
                against=("SPOS", "SPOS + MS (control)", "SPOS + MS at 1-t/T (control of centred)"),
            ),
            Row("SPOS + MS at 1-t/T (control of centred)", s.SPOS_MS_LINE, against=("SPOS",)),
            Row(
                "SPOS + ours, the proxy's own C(α)",
                Setting("spos", ours(complexity_of="own")),
                against=("SPOS", "SPOS + ours, γ' = 4"),
            ),
            Row("SPOS, idle weights rest (control)", Setting("spos", config=REST)),
            Row(
                "SPOS + ours, idle weights rest (control)",
                Setting("spos", ours(), REST),
                against=("SPOS, idle weights rest (control)",),
            ),
        ),
        note=(
            "Matched: (1-t/T)^k with k the mean γ that CaLR has over the paths drawn, 2.18. Centred: γ divided by that "
            "mean, so that the rate falls as 1-t/T on average."
        ),
    )
)
