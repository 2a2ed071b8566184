"""Table A: what searches of the NAS-Bench-201 space answer on CIFAR-10, and the paper's other methods."""

from functools import partial

from .base import Measured, Row, Study, ours, studies
from .whole import whole

FEW_SHOT, FAIR = "fsnas", "fairnas"
scored = partial(Measured, function=whole, benchmark=True)
ROWS = (
    Row("SPOS", scored("spos"), (93.12, 0.03)),
    Row("SPOS + ours", scored("spos", ours()), (93.50, 0.33), against=("SPOS",)),
    Row("FairNAS, constant lr", scored(FAIR, {"schedule": "constant"}), (92.13, 0.18)),
    Row("FairNAS, cosine", scored(FAIR)),
    Row(
        "FairNAS + ours",
        scored(FAIR, ours()),
        (93.52, 0.50),
        against=("FairNAS, constant lr", "FairNAS, cosine"),
    ),
    Row("FSNAS", scored(FEW_SHOT), (93.43, 0.24)),
    Row("FSNAS + ours", scored(FEW_SHOT, ours()), (93.63, 0.21), against=("FSNAS",)),
    # What the paper cites of these is measured by other code, on other images and lists.
    Row("random", scored("random"), against=("SPOS",)),
    Row("NSAS", scored("nsas"), (92.23, 0.10), against=("SPOS",)),
    Row("Cream", scored("cream"), (92.83, 0.67), against=("SPOS",)),
    Row("SUMNAS", scored("sumnas"), (93.09, 0.12), against=("SPOS", "FairNAS, cosine")),
    Row("PA&DA", scored("pada"), (93.33, 0.22), against=("SPOS",)),
    Row("Pi-NAS", scored("pinas"), against=("SPOS",)),
)
# Their supernets train mixtures of options: what they answer is α's, and nothing is ranked.
BY_ALPHA = (
    Row("DARTS", scored("darts", arguments={"ranked": False}), (86.23, 4.93)),
    Row("DARTS, second order", scored("darts", {"order": 2}, arguments={"ranked": False})),
    Row("GDAS", scored("gdas", arguments={"ranked": False}), (93.26, 0.32)),
)

TABLE_A = studies.register("table-a")(
    Study(
        "table-a",
        "Test accuracy of the subnets that searches answer, NAS-Bench-201 space",
        ROWS + BY_ALPHA,
        measure="whole",
        note=(
            "True accuracies are the benchmark's, of networks that its authors trained alone at full size. Every "
            "subnet is scored on the same images (2,048 but in smoke), those of one canonical form once. Best of n: "
            "what searches of n random subnets answer, 1,000 draws of them, the same for every run; 5, 50 and 95 % are "
            "their percentiles. Of several supernets these train the best of each and keep the one that tests best, as "
            "in the paper. Best, 10 best, rank and tau are of all subnets by score alone. Own: what the method itself "
            "answers, of random and NSAS the best of its own draws, of Cream the top of its board, of DARTS and GDAS "
            "the strongest options. The paper's figures from NSAS on are cited there from other papers."
        ),
    )
)
