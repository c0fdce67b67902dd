"""Who else is called when a module is."""

from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """Whether calling this module calls hooks of its own besides its forward. (Those of all modules are PyTorch's to know.)"""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
