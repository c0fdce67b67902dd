"""The position-wise feed-forward layer of few rows by a C kernel (few_rows.c): float32 on a CPU, without gradients. Weights are
float32, or int8 with a scale for each output.

Axes: T rows (batch and length together), D width in, F inner width, E width out.
"""

import torch
from torch import Tensor

from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, operator
from .native import FITS

Map = tuple[Tensor, Tensor | None, Tensor]  # weight, scale and bias
POINTERS = ("x", "expand", "contract", "expand_scale", "expand_bias", "contract_scale", "contract_bias", "y", "inner")


class FewRowsForward(Arguments, layout="few_rows_forward"):
    """``few_rows_forward`` of few_rows.c."""

    _fields_ = [
        *((name, POINTER) for name in POINTERS),
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
    return _run(x, (expand, None, expand_bias), (contract, None, contract_bias))


def _int8_output_like(x: Tensor, expand: Tensor, expand_scale: Tensor, expand_bias: Tensor, contract: Tensor, *_: Tensor) -> Tensor:
    return x.new_empty(len(x), len(contract))


def _work_of_int8(x: Tensor, expand: Tensor, expand_scale: Tensor, expand_bias: Tensor, contract: Tensor, *_: Tensor) -> int:
    return len(x) * (expand.numel() + contract.numel())


@operator(
    work=_work_of_int8,
    fake=_int8_output_like,
    check=asks(
        x="T D", contract="E F, int8", contract_scale="E", contract_bias="E", expand="P D, int8", expand_scale="P", expand_bias="P",
        require=FITS,
    ),
)  # fmt: skip
def feed_forward_few_rows_int8(
    x: Tensor, expand: Tensor, expand_scale: Tensor, expand_bias: Tensor, contract: Tensor, contract_scale: Tensor, contract_bias: Tensor
) -> Tensor:
    """The same of int8 weights with a scale for each output."""
    return _run(x, (expand, expand_scale, expand_bias), (contract, contract_scale, contract_bias))


def _run(x: Tensor, expand: Map, contract: Map) -> Tensor:
    (rows, dim), (out, wide) = x.shape, contract[0].shape
    y, maps = x.new_empty(rows, out), len(expand[0]) // max(wide, 1)
    inner = x.new_empty(whole(rows) * (maps + 1) * wide)
    tensors = (x, expand[0], contract[0], *expand[1:], *contract[1:], y, inner)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    call("feed_forward_few_rows", FewRowsForward(*pointers, rows, dim, wide, out, maps, torch.get_num_threads()))
    return y
