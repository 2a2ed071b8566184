"""The paper's contribution, usable alone in anyone's training loop: CaLR (eqs. 3, 4) and MS (eqs. 7, 8)."""

from .calr import ComplexityAwareLR
from .momentum import SeparatedMomentum

__all__ = ["ComplexityAwareLR", "SeparatedMomentum"]
