"""Backward passes that are not themselves differentiable."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the ``backward`` of a ``torch.autograd.Function`` written by hand: refuse to be recorded.

    PyTorch's decorator of that name asks whether the incoming gradient needs one. That of a loss does not, and a second derivative would
    silently lack what passes through here.

    Raises:
        RuntimeError: if autograd records the backward (``create_graph=True``).
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("this operation can be differentiated once: call backward without create_graph=True")
        return backward(ctx, *gradients)

    return run
