"""The Triton kernels in the law of forward and extend: single tokens before, between and after longer pieces."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from tests.laws.streaming import Piece, built, check_law
from torch.nn import functional as F

import subquadratic as sq

SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 1}
CONFIGS = {
    "softmax": sq.PerformerConfig(**SMALL, features=16),
    "relu": sq.PerformerConfig(**SMALL, features=16, kernel="relu"),
    "callable": sq.PerformerConfig(**SMALL, features=16, kernel=F.softplus),
}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_forward_equals_extend_over_pieces_of_all_lengths(name: str) -> None:
    mask = torch.ones(3, 26, dtype=torch.bool)
    mask[0, :2], mask[1, 5:7], mask[2] = False, False, False
    plan = [Piece(1), Piece(1, gradients=True), Piece(9), Piece(1), Piece(14)]
    check_law(built("backbone", CONFIGS[name], torch.float32), CONFIGS[name], plan, mask, tolerance=2e-3, backend="triton")
