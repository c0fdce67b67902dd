"""Products with one weight, step after step: laid out once, before the loop, in the order in which a step reads it.

A step of a recurrence has few rows and reads whole weights, so how a weight lies in storage decides its time.

Axes: B rows, I width in, O width out.
"""

import torch
from torch import Tensor

from ...layers.linear.op import onednn_is_faster, parts_of

MANY_STEPS = 16  # steps from which a copy of a weight, in the order in which it is read, pays
PACKED_ROWS, PACKED_NUMBERS = 4, 1 << 17  # rows of a step, and numbers of a weight, from which oneDNN's own layout pays


class Product:
    """x -> x W^T + b.

    Args:
        weight: W (O, I), as a linear map has it, or a transposed view.
        bias: (O,).
        rows, steps: how many each step will have, and how many steps there will be.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, rows: int, steps: int):
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows) if _packs(weight, rows, steps) else None
        self.right = weight.mT
        self.bands = self.band_bias = None
        if rows == 1 and steps >= MANY_STEPS and weight.device.type == "cpu" and weight.dtype is torch.float32:
            lying = weight.contiguous()
            parts = parts_of(lying)
            if parts is not None:
                self.bands = lying.view(parts, -1, lying.shape[1])
                self.band_bias = None if bias is None else bias.view(parts, -1, 1)
                return
        if steps >= MANY_STEPS and self.packed is None:
            # One row wants the longer side last; several want what each output is made of in one piece: up to twice as fast on Intel.
            together = rows > 1 or weight.shape[1] > weight.shape[0]
            self.right = weight.contiguous().mT if together else weight.mT.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        return self.into(x, x.new_empty(x.shape[0], self.right.shape[1])) if self.packed is None else _onednn(x, self.packed, self.bias)

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        """(B, I) -> (B, O), written to ``out``."""
        if self.bands is not None:
            return self._in_bands(self.band_bias, x, out)
        if self.packed is not None:
            return out.copy_(_onednn(x, self.packed, self.bias))
        if self.bias is None:
            return torch.mm(x, self.right, out=out)
        return torch.addmm(self.bias, x, self.right, out=out)

    def added_to(self, base: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """base + x W^T + b, written to ``out``; with a bias only."""
        assert self.bias is not None
        if self.bands is not None:
            return self._in_bands(base.view(len(self.bands), -1, 1), x, out).add_(self.bias)
        if self.packed is not None:
            return torch.add(base, _onednn(x, self.packed, self.bias), out=out)
        return torch.addmm(base, x, self.right, out=out).add_(self.bias)

    def _in_bands(self, base: Tensor | None, x: Tensor, out: Tensor) -> Tensor:
        bands = self.bands
        assert bands is not None
        columns, y = x.T.expand(len(bands), -1, 1), out.view(len(bands), -1, 1)
        if base is None:
            torch.bmm(bands, columns, out=y)
        else:
            torch.baddbmm(base, bands, columns, out=y)
        return out


def _onednn(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


def _packs(weight: Tensor, rows: int, steps: int) -> bool:
    large = steps >= MANY_STEPS and rows >= PACKED_ROWS and weight.numel() >= PACKED_NUMBERS
    return large and weight.device.type == "cpu" and weight.dtype is torch.float32 and onednn_is_faster()
