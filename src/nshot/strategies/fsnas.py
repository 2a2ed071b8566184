"""FSNAS, few-shot NAS (Zhao et al., ICML 2021), and with CaLR and MS Alg. 3 of the supplement."""

from dataclasses import dataclass

from nshot.seeding import generator
from nshot.spaces import Space

from .base import strategies
from .options import Options
from .spos import SPOS


@dataclass(frozen=True)
class FewOptions(Options):
    """FSNAS: as SPOS in each part, C's range (eq. 4) and MS being those of the part."""

    split_at: str = "first"
    """The decision that splits the space, an option a part: by name, or first, last, random. MS takes another one."""


@strategies.register("fsnas")
class FSNAS(SPOS):
    """One supernet for each option of a decision, each trained like SPOS on the rest of the space."""

    name = "fsnas"
    options_type = FewOptions

    @classmethod
    def parts(cls, space: Space, options: Options, seed: int) -> list[Space]:
        """The restricted spaces, a partition of ``space``; a part is not split again."""
        assert isinstance(options, FewOptions)
        places = {"first": 0, "last": len(space.decisions) - 1}
        if options.split_at == "random":
            place = int(generator(seed, "split").integers(len(space.decisions)))
        elif options.split_at in places:
            place = places[options.split_at]
        else:
            place = space.decision_index(options.split_at)
        decision = space.decisions[place]
        return [space.restrict(decision.name, decision.options[option]) for option in decision.allowed]
