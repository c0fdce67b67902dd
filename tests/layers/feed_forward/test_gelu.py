"""GELU of a few numbers is PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from subquadratic.layers.feed_forward.gelu import FEW_NUMBERS, gelu


@pytest.mark.parametrize("shape", [(1, 1, 1024), (2, 3, 4), (7,), (3, 5), (0,), (), (1, FEW_NUMBERS + 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_pytorch_s(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        found = gelu(x)
        torch.testing.assert_close(found, F.gelu(x))
    assert found.shape == x.shape and found.is_contiguous()
    torch.testing.assert_close(gelu(x.mT if x.dim() > 1 else x), F.gelu(x.mT if x.dim() > 1 else x))


def test_gradients() -> None:
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gelu, (x,))
