"""What attention modules of transformers say of themselves.

Each says it otherwise; none of this is in the interface.
"""

from torch import nn


def is_cross(module: nn.Module) -> bool:
    """Whether a module without causality attends to another sequence, going by what transformers' modules say of themselves."""
    return "Cross" in type(module).__name__ or bool(getattr(module, "is_cross_attention", False) or getattr(module, "is_decoder", False))


def layer_of(module: nn.Module) -> int:
    """The number of a module's layer; 0 where it does not know."""
    layer = getattr(module, "layer_idx", None)
    return layer if isinstance(layer, int) else 0
