"""Linear maps and token tables whose weights are held in 8 bits: int8 and a float32 scale for each output or token, W = diag(s) Q.

Of few rows, as in decoding, a C kernel reads the 8 bits (`few_rows.c`), in about a third of the time that reading float32 weights takes;
activations stay float32. Of many rows the weights become those of the activations for the time of the call.

Axes: D width in, F width out, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...core.errors import require
from .op import by_few_rows, linear_together

LARGEST = 127  # -128 is left out, so that both signs reach as far


@torch.no_grad()
def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(F, D) as int8 and the scales of its rows (F,), float32: each row's largest number is 127. A row of zeros has the scale 1.

    Raises:
        ValueError: for a number that is NaN or infinite.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / LARGEST if weight.shape[1] else weight.new_zeros(weight.shape[0])
    finite = bool(scale.isfinite().all())
    require(finite, f"weights must be finite to be held in 8 bits, got NaN or infinity in one of shape {tuple(weight.shape)}")
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Int8Weight(nn.Module):
    """What has a weight (F, D) in 8 bits: nothing in it is trained, and its scales stay float32 whatever dtype a model is given."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The weight (F, D) in a floating-point dtype."""
        exact = torch.promote_types(dtype, torch.float32)
        return (self.weight.to(exact) * self.scale[:, None].to(exact)).to(dtype)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale
        super()._apply(function, recurse)
        if self.scale.dtype is not scale.dtype:
            self.scale = scale.to(self.scale.device)
        return self

    def refuse_training(self) -> None:
        """Raises ValueError where gradients are recorded in training mode."""
        require(
            not (self.training and torch.is_grad_enabled()),
            "the weights of this model are held in 8 bits (quantize), and cannot be trained: train the model that it was made of, or call "
            "eval() first",
        )


class Int8Linear(Int8Weight):
    """x W^T + b, (..., D) -> (..., F), for :func:`subquadratic.quantize_`.

    Args:
        weight: (F, D), int8.
        scale: (F,), float32.
        bias: (F,), or None.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None):
        super().__init__(weight, scale)
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = weight.shape

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The same map with a weight of 8 bits."""
        return cls(*to_int8(layer.weight), None if layer.bias is None else layer.bias.detach())

    @classmethod
    def unfilled(cls, layer: nn.Linear) -> Self:
        """One of the same sizes, whose numbers are still to be loaded."""
        size = layer.out_features, layer.in_features
        return cls(torch.empty(size, dtype=torch.int8), torch.empty(size[0]), None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F), in the dtype of x."""
        return int8_maps_of(x, [self])[0]

    def extra_repr(self) -> str:
        """As ``nn.Linear`` has it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Embedding(Int8Weight):
    """Tokens (...,) -> (..., D), in place of ``nn.Embedding``; the scales are those of tokens.

    Args:
        weight: (V, D), int8.
        scale: (V,), float32.
        dtype: of the vectors.
    """

    def __init__(self, weight: Tensor, scale: Tensor, *, dtype: torch.dtype = torch.float32):
        super().__init__(weight, scale)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.dtype = dtype

    @classmethod
    def of(cls, table: nn.Embedding) -> Self:
        """The same table in 8 bits."""
        return cls(*to_int8(table.weight), dtype=table.weight.dtype)

    @classmethod
    def unfilled(cls, table: nn.Embedding) -> Self:
        """One of the same sizes, whose numbers are still to be loaded."""
        size = table.num_embeddings, table.embedding_dim
        return cls(torch.empty(size, dtype=torch.int8), torch.empty(size[0]), dtype=table.weight.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...,) int64 -> (..., D)."""
        self.refuse_training()
        return (self.weight[tokens].to(self.scale.dtype) * self.scale[tokens][..., None]).to(self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V): the output map that is tied to the table."""
        return _maps(hidden, [(self, None)])[0]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.dtype = function(torch.empty(0, dtype=self.dtype, device=self.scale.device)).dtype
        return super()._apply(function, recurse)


def int8_maps_of(x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """What each :class:`Int8Linear` makes of the same (..., D)."""
    layers[0].refuse_training()
    return _maps(x, [(layer, layer.bias) for layer in layers])


def _maps(x: Tensor, parts: Sequence[tuple[Int8Weight, Tensor | None]]) -> list[Tensor]:
    few = by_few_rows(x, [(part.weight, bias) for part, bias in parts], [part.scale for part, _ in parts])
    if few is not None:
        return few
    return linear_together(x, [(part.widened(x.dtype), None if bias is None else bias.to(x.dtype)) for part, bias in parts])
