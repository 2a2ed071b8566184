"""nshot: train a weight-sharing supernet well, rank its subnets truly, keep the best one as plain PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dynamic import ComplexityAwareLR, SeparatedMomentum
    from .errors import UserError
    from .handover.export import export
    from .handover.predict import predict
    from .spaces import extract, list_spaces, space
    from .strategies import list_strategies, strategy

__version__: str  # as the installed package has it
# Where the public names live; imported on first use, so that `import nshot` and `nshot --help` do not wait for torch.
_HOMES = {
    "ComplexityAwareLR": "dynamic",
    "SeparatedMomentum": "dynamic",
    "UserError": "errors",
    "export": "handover.export",
    "extract": "spaces",
    "list_spaces": "spaces",
    "list_strategies": "strategies",
    "predict": "handover.predict",
    "space": "spaces",
    "strategy": "strategies",
}
__all__ = [
    "ComplexityAwareLR",
    "SeparatedMomentum",
    "UserError",
    "export",
    "extract",
    "list_spaces",
    "list_strategies",
    "predict",
    "space",
    "strategy",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nshot")
    if name not in _HOMES:
        raise AttributeError(f"module 'nshot' has no attribute {name!r}")
    return getattr(import_module(f"nshot.{_HOMES[name]}"), name)
