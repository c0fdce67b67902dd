"""A module that a published model has under several names: saved under the first, loaded from any.

The published state dicts hold its tensors once a name. Ours hold them once, under the name that ``named_parameters`` gives.
"""

from typing import Any

import torch
from torch import nn


def save_once(module: nn.Module, shared: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """For a state-dict post-hook of ``module``: keep the first name of each tensor of ``shared``."""
    for keys in _names(module, shared, prefix):
        for key in keys[1:]:
            state_dict.pop(key, None)


def load_all(module: nn.Module, shared: nn.Module, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> None:
    """For a load-state-dict pre-hook: give every name what one of them has. All copies must agree, or the weights belong to something
    else."""
    for keys in _names(module, shared, prefix):
        found = [key for key in keys if key in state_dict]
        for key in found[1:]:
            first, copy = state_dict[found[0]], state_dict[key]
            if copy.shape != first.shape or not torch.equal(copy, first):
                errors.append(f"{key} differs from another copy, {found[0]}, but this model has one for all layers")
        for key in keys:
            if found and key not in state_dict:
                state_dict[key] = state_dict[found[0]]


def _names(module: nn.Module, shared: nn.Module, prefix: str) -> list[list[str]]:
    """For each tensor of ``shared``, all of its names. A layer that was given a module of its own is not among them."""
    places = [name for name, part in module.named_modules(remove_duplicate=False) if part is shared]
    return [[f"{prefix}{place}.{name}" for place in places] for name in shared.state_dict()]
