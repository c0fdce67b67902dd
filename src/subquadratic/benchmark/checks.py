"""Is a side right? Quick checks without which nothing is timed: each gives None, or what is wrong.

Axes: B batch, N length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .work import relative_error


def one_truth(whole: Tensor, pieces: Tensor, *, tolerance: float) -> str | None:
    """Whether a sequence at once and in pieces gives the same; the last positions of each, where one has fewer."""
    length = min(whole.shape[1], pieces.shape[1])
    return within(pieces[:, -length:], whole[:, -length:], tolerance=tolerance, what="extend over two pieces, from forward")


def causal(before: Tensor, after: Tensor, changed: int) -> str | None:
    """Whether outputs of a sequence stayed bit for bit when its last `changed` positions became others."""
    difference = float((after - before)[:, : before.shape[1] - changed].abs().max())
    return None if difference == 0 else f"changing the future changes the past, by {difference:.3g}"


def within(found: Tensor, wanted: Tensor, *, tolerance: float, what: str) -> str | None:
    """Whether the relative error is below the tolerance, which NaN is not."""
    error = relative_error(found, wanted)
    return None if error < tolerance else f"{what}: differs by {error:.3g} of its size, allowed is {tolerance:g}"


def finite_gradients(model: nn.Module) -> str | None:
    """Whether no gradient is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name} is NaN or infinite"
    return None


@torch.no_grad()
def streaming_model(model: Any, x: Tensor, change: Callable[[Tensor], Tensor], *, tolerance: float, **arguments: Any) -> str | None:
    """A causal model or layer: forward equals extend over two pieces, and the future does not reach the past.

    Args:
        model: with `forward`, `init_state` and `extend`.
        x: (B, N) tokens or (B, N, D).
        change: gives other values for those of a piece.
        arguments: of `forward`, when it is asked about the future.
    """
    cut = max(1, x.shape[1] * 2 // 5)
    whole = model(x)
    if not bool(torch.isfinite(whole).all()):
        return "the output is NaN or infinite"
    first, state = model.extend(x[:, :cut], model.init_state(x.shape[0]))
    second, _ = model.extend(x[:, cut:], state)
    wrong = one_truth(whole, torch.cat((first, second), dim=1) if whole.shape[1] == x.shape[1] else second, tolerance=tolerance)
    if wrong is not None:
        return wrong
    before = model(x, **arguments)
    late = max(1, before.shape[1] // 3)  # positions, among those that have outputs
    other = torch.cat((x[:, :-late], change(x[:, -late:])), dim=1)
    return causal(before, model(other, **arguments), late)


@torch.no_grad()
def both_ways(model: nn.Module, x: Tensor, *, tolerance: float) -> str | None:
    """A bidirectional model or layer: as in float64."""
    exact = copy.deepcopy(model).double()
    wanted = exact(x.double() if x.is_floating_point() else x)
    return within(model(x), wanted, tolerance=tolerance, what="the output, from the one in float64")


def same_shape_and_finite(output: Tensor, shape: tuple[int, ...], loss: Tensor) -> str | None:
    """What is asked of someone else's code."""
    if tuple(output.shape) != shape:
        return f"the output has shape {tuple(output.shape)}, ours {shape}"
    return None if bool(torch.isfinite(loss)) else f"the loss is {float(loss)}"
