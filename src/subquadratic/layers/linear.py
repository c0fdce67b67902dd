"""The linear map of every layer."""

from torch import Tensor, nn

from ..ops.linear import linear


class Linear(nn.Linear):
    """``torch.nn.Linear``, computed by :func:`subquadratic.ops.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)."""
        return linear(x, self.weight, self.bias)
