"""The first part of a distillation: each attention layer by itself, on what the original's layer was given, to what it gave.

All layers learn at once, and none from the errors of those below. Only attention is computed of the student, a third of its work.

Axes: B batch, N length, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .models import Pair

MASK = "attention_mask"


@contextmanager
def watched(model: nn.Module, names: list[str]) -> Iterator[dict[str, tuple[dict[str, Any], Tensor]]]:
    """What modules are given, by the names of their arguments, and their (B, N, D) outputs, while the context is open."""
    seen: dict[str, tuple[dict[str, Any], Tensor]] = {}
    hooks = []
    for name in names:

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            signature = inspect.signature(module.forward)
            given = signature.bind(*args, **kwargs).arguments
            rest = next((key for key, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD), None)
            given |= given.pop(rest, {}) if rest is not None else {}
            seen[name] = given, output[0] if isinstance(output, tuple) else output

        hooks.append(model.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    try:
        yield seen
    finally:
        for one in hooks:
            one.remove()


def layerwise_loss(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    """The mean over layers of :func:`relative_error` of the student's attention, each on the teacher's hidden states."""
    mask = inputs[MASK].bool()
    with torch.no_grad(), watched(pair.teacher, pair.attention) as seen:
        teacher = body(pair.teacher)
        teacher(**inputs, **without_cache(teacher))
    losses = []
    for name, (given, expected) in seen.items():
        if given.get(MASK) is not None:  # ours takes (B, N), and knows by the module what is causal
            given[MASK] = mask
        output = pair.student.get_submodule(name)(**given)
        losses.append(relative_error(output[0] if isinstance(output, tuple) else output, expected, mask))
    return torch.stack(losses).mean()


def relative_error(output: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """The squared error over the variance of what is expected, of real tokens: 1 for a constant.

    Args:
        output, expected: (B, N, D).
        mask: (B, N) bool, True = real token.
    """
    output, expected = output[mask], expected[mask]
    return (output - expected).square().mean() / (expected - expected.mean(dim=0)).square().mean().clamp_min(1e-12)


def attention_parameters(pair: Pair) -> list[nn.Parameter]:
    """Those of the student's attention modules that are learned layer by layer."""
    modules = (pair.student.get_submodule(name) for name in pair.attention)
    return list({id(one): one for module in modules for one in module.parameters()}.values())


def body(model: nn.Module) -> nn.Module:
    """A model without its head."""
    part: Any = getattr(model, getattr(model, "base_model_prefix", "") or "", None)
    return part if isinstance(part, nn.Module) else model


def without_cache(model: nn.Module) -> dict[str, Any]:
    """Keywords of a forward that keeps nothing for a next one."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
