"""A padded batch taken apart into its rows gives what it gives whole."""

from typing import Any

import pytest
import torch
from tests.laws.matrix import configs, inputs

import subquadratic as sq
from subquadratic.models import row_by_row
from subquadratic.models.row_by_row import needed, rows_alone

N = 12


def uneven() -> torch.Tensor:
    """Padding at the right, at the left, in holes, everywhere, and nowhere."""
    mask = torch.ones(5, N, dtype=torch.bool)
    mask[0, 7:], mask[1, :5], mask[2, 3:6], mask[2, 8], mask[3] = False, False, False, False, False
    return mask


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows are short enough here; who counts how many rows a call was taken apart into."""
    taken: list[int] = []

    def counted(*given: Any) -> Any:
        rows = rows_alone(*given)
        taken.append(0 if rows is None else len(rows))
        return rows

    monkeypatch.setattr(row_by_row, "LONG", 1)
    for module in ("subquadratic.models.backbone", "subquadratic.models.perceiver_ar.backbone"):
        monkeypatch.setattr(f"{module}.rows_alone", counted)
    return taken


@pytest.mark.parametrize("config", [each for each in configs() if not isinstance(each.values[0], sq.FeedbackTransformerConfig)])
def test_outputs_and_gradients_are_those_of_the_whole_batch(config: sq.BackboneConfig, apart: list[int]) -> None:
    backbone, mask = config.build().double(), uneven()
    x = inputs(5, N, config.dim).requires_grad_()
    cross = {"context": inputs(5, 7, config.dim, seed=4)} if getattr(config, "cross_attention", False) else {}
    wanted = (x, *backbone.parameters())
    found = []
    for quiet in (True, False):
        hook = None if quiet else next(iter(backbone.children())).register_forward_hook(lambda *_: None)
        y = backbone(x, mask=mask, **cross)
        found.append((y, torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)))
        if hook is not None:
            hook.remove()
    assert apart == [5, 0]  # a hook sees whole batches
    (apart_y, apart_grads), (whole_y, whole_grads) = found
    torch.testing.assert_close(apart_y, whole_y, rtol=1e-6, atol=1e-8)
    for mine, true in zip(apart_grads, whole_grads, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if mine is None else mine, zero if true is None else true, rtol=1e-5, atol=1e-7)


def test_when_a_batch_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sq.PerformerConfig(dim=16, depth=1, heads=2, features=8).build()
    x, mask = torch.randn(5, N, 16), uneven()
    assert rows_alone(model, x, mask) is None  # short rows
    monkeypatch.setattr(row_by_row, "LONG", 1)
    rows = rows_alone(model, x, mask)
    assert rows is not None and [(row.first, row.stop, row.places is None) for row in rows] == [
        (0, 7, True), (5, N, True), (0, N, False), (0, 0, True), (0, N, True)
    ]  # fmt: skip
    assert rows_alone(model, x, None) is None
    assert needed(torch.ones_like(mask)) is None and needed(mask) is mask and needed(None) is None
    assert rows_alone(model, x[:0], mask[:0]) is None
    assert rows_alone(model, x.to("meta"), mask.to("meta")) is None
    assert torch.func.vmap(lambda x: model(x[None], mask=mask[:1])[0])(x[:1]).shape == (1, N, 16)
    model.stack.register_forward_pre_hook(lambda *_: None)
    assert rows_alone(model, x, mask) is None


def test_rows_with_a_context_of_their_own(apart: list[int]) -> None:
    config = sq.TransformerConfig(dim=16, depth=1, heads=2, cross_attention=True)
    backbone, mask = config.build().double(), uneven()
    x, context, context_mask = inputs(5, N, 16), inputs(5, 6, 16, seed=4), torch.rand(5, 6) < 0.7
    y = backbone(x, mask=mask, context=context, context_mask=context_mask)
    backbone.stack.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(y, backbone(x, mask=mask, context=context, context_mask=context_mask), rtol=1e-6, atol=1e-8)
    assert apart == [5, 0]
