"""Positions far along a stream: neighbours are as far apart as at its beginning."""

import dataclasses
import math

import pytest
import torch

import subquadratic as sq
from subquadratic.layers.positions import FixedPositions

FAR = 10**9


@pytest.mark.parametrize("dim", [1, 2, 5, 8, 64])
def test_fixed_positions_are_the_sinusoids_at_any_position(dim: int) -> None:
    positions = torch.tensor([[0, 1, 5], [2**24 + 1, FAR, FAR + 1]])
    found = FixedPositions(dim)(positions)
    half = (dim + 1) // 2
    angles = [[[position * 10000.0 ** (-2 * i / dim) for i in range(half)] for position in row] for row in positions.tolist()]
    wanted = torch.tensor([[[f(a) for f in (math.sin, math.cos) for a in at][:dim] for at in row] for row in angles])
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"window": 4}, {"qk_norm": True}], ids=str)
def test_attention_far_along_a_stream_is_that_of_its_beginning(options: dict[str, object], dtype: torch.dtype) -> None:
    """Exact attention with rotary positions knows distances only."""
    torch.manual_seed(0)
    config = sq.TransformerConfig(dim=16, depth=2, heads=2, **options)  # type: ignore[arg-type]
    model, x = sq.LanguageModel(config, vocab_size=11).to(dtype).eval(), torch.randint(0, 11, (2, 12))
    begun = model.init_state(2)
    logits = []
    for start in (0, FAR):
        counted = {"seen": begun.seen + start}
        state, parts = dataclasses.replace(begun, backbone=dataclasses.replace(begun.backbone, **counted), **counted), []
        for piece in x.split([1, 1, 7, 3], dim=1):
            y, state = model.extend(piece, state)
            parts.append(y)
        logits.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(*logits, rtol=0, atol=0.05 if dtype is torch.bfloat16 else 2e-5)
