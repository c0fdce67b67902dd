"""The linear map of every layer."""

from torch import Tensor, nn

from ..ops.linear import linear, linear_together
from .hooks import is_untouched


class Linear(nn.Linear):
    """``torch.nn.Linear``, computed by :func:`subquadratic.ops.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)."""
        return linear(x, self.weight, self.bias)


def maps_of(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What each layer makes of the same (..., D); linear maps with nothing in their place read it once."""
    if all(is_untouched(layer, Linear) for layer in layers):
        return linear_together(x, [(layer.weight, layer.bias) for layer in layers])  # type: ignore[misc]
    return [layer(x) for layer in layers]
