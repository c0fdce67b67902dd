"""The linear map of every layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..untouched import is_untouched
from .int8 import Int8Linear, int8_maps_of
from .op import linear, linear_together


class Linear(nn.Linear):
    """``torch.nn.Linear``, computed by :func:`subquadratic.layers.linear.op.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)."""
        return linear(x, self.weight, self.bias)


@contextmanager
def computed_here(*models: nn.Module) -> Iterator[None]:
    """While the context is open, the plain ``torch.nn.Linear`` layers of models compute as :class:`Linear` does, the faster way on some
    processors; their weights, hooks and names are as they were."""
    layers = [module for model in models for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        layer.__class__ = Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear


def maps_of(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What each layer makes of the same (..., D); linear maps with nothing in their place read it once."""
    if all(is_untouched(layer, Linear) for layer in layers):
        return linear_together(x, [(layer.weight, layer.bias) for layer in layers])  # type: ignore[misc]
    if all(is_untouched(layer, Int8Linear) for layer in layers):
        return int8_maps_of(x, layers)
    return [layer(x) for layer in layers]


def map_exactly(x: Tensor, layer: nn.Module, given: torch.dtype, *, plus: Tensor | None = None) -> Tensor:
    """layer(x) + plus in the dtype of (..., D), float32 or float64, whatever the layer's is.

    A layer with something in its place, or that somebody listens to, is called as it would be elsewhere in the model, in the dtype that is
    ``given`` there: what does not fit into float16 becomes its largest number.
    """
    if is_untouched(layer, Linear):
        assert isinstance(layer, Linear)
        return linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype), plus=plus)
    y = layer(x if is_untouched(layer, Int8Linear) else fitting(x, given)).to(x.dtype)
    return y if plus is None else y + plus


def fitting(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in ``dtype``, with what would overflow in float16 at its limit."""
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype) if dtype is torch.float16 else x.to(dtype)
