"""Folding a global vector into weights changes nothing but the time."""

from typing import Any

import pytest
import torch

from subquadratic.attention import AdditiveAttention
from subquadratic.attention.additive import layer as additive


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{}, {"rotary": True}, {"rotary": True, "share_query_value": False}], ids=str)
def test_folded_weights_give_what_products_give(batch: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = AdditiveAttention(16, heads=4, **options).double()
    x = torch.randn(batch, 40, 16, dtype=torch.float64, requires_grad=True)
    mask, gradient = torch.rand(batch, 40) > 0.3, torch.randn(batch, 40, 16, dtype=torch.float64)
    folded, fold = [], additive._folded

    def noted(*given: Any) -> torch.Tensor:
        folded.append(given)
        return fold(*given)

    def run() -> tuple[torch.Tensor, ...]:
        y = layer(x, mask=mask)
        return y, *torch.autograd.grad(y, [x, *layer.parameters()], gradient)

    monkeypatch.setattr(additive, "_folded", noted)
    found = run()
    assert len(folded) == 2
    monkeypatch.setattr(additive, "computed_by", lambda *_, **__: "formula")
    for mine, wanted in zip(found, run(), strict=True):
        torch.testing.assert_close(mine, wanted)
    assert len(folded) == 2


def test_logit_vectors_from_outside_must_have_the_layers_shape() -> None:
    layer, x, logits = AdditiveAttention(16, heads=2, tie_logit_vectors=True), torch.randn(1, 64, 16), torch.randn(2, 16)
    layer(x, query_logits=logits, key_logits=logits)
    with pytest.raises(ValueError, match=r"pass query_logits, .* = \(2, 16\), got \(2, 15\)"):
        layer(x, query_logits=logits[:, :15], key_logits=logits)
    with pytest.raises(ValueError, match=r"pass key_logits, .* got None"):
        layer(x, query_logits=logits)
