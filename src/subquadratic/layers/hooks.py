"""Who else is called when a module is."""

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def has_hooks(module: nn.Module) -> bool:
    """Whether calling this module calls hooks of its own besides its forward. (Those of all modules are PyTorch's to know.)"""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def is_untouched(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether this is a module of one of these classes, and calling it would do what the class says and nothing besides: no adapter is in
    its place, and nobody listens."""
    if module is None or type(module) not in kinds:
        return False
    return "forward" not in module.__dict__ and not has_hooks(module) and not _has_any_global_hook()
