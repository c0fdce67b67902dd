"""The position-wise feed-forward layer of few rows by a C kernel (few_rows.c): float32 on a CPU, without gradients.

Axes: T rows (batch and length together), D width in, F inner width, E width out.
"""

import torch
from torch import Tensor

from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, operator
from .native import FITS


class FewRowsForward(Arguments, layout="few_rows_forward"):
    """``few_rows_forward`` of few_rows.c."""

    _fields_ = [
        *((name, POINTER) for name in ("x", "expand", "expand_bias", "contract", "contract_bias", "y", "inner")),
        *((name, INT64) for name in ("rows", "dim", "wide", "out", "maps", "threads")),
    ]


def _output_like(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
    return x.new_empty(len(x), len(contract))


def _work_of_feed_forward_few_rows(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> int:
    return len(x) * (expand.numel() + contract.numel())


@operator(
    work=_work_of_feed_forward_few_rows,
    fake=_output_like,
    check=asks(x="T D", contract="E F", contract_bias="E", expand="P D", expand_bias="P", require=FITS),
)
def feed_forward_few_rows(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
    """contract(gelu(expand(x))) of x (T, D); as ``feed_forward``, with nothing kept for backward."""
    y = _output_like(x, expand, expand_bias, contract, contract_bias)
    (rows, dim), (out, wide), maps = x.shape, contract.shape, len(expand) // max(contract.shape[1], 1)
    inner = x.new_empty(whole(rows) * (maps + 1) * wide)
    pointers = [tensor.data_ptr() for tensor in (x, expand, expand_bias, contract, contract_bias, y, inner)]
    call("feed_forward_few_rows", FewRowsForward(*pointers, rows, dim, wide, out, maps, torch.get_num_threads()))
    return y
