"""The one difference between the causal twin and the published Performer is the published leak.

There the stabiliser of the keys is a maximum over the whole sequence, and 1e-4 is added relative to it. With that maximum in place of our
running one, outputs and gradients agree as closely as bidirectional ones do.
"""

from typing import Any

import performer_pytorch as published
import pytest
import torch
from torch import Tensor

from subquadratic.compat import performer_pytorch as twin
from subquadratic.compat.performer_pytorch import fast_attention

OPTIONS: dict[str, Any] = dict(
    num_tokens=11, max_seq_len=64, dim=32, depth=3, heads=4, dim_head=8, causal=True, nb_features=33, use_rezero=True,
    rotary_position_emb=False, axial_position_emb=True, axial_position_shape=(4, 16), attn_out_bias=True,
)  # fmt: skip


def results(model: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(tokens, mask=torch.ones_like(tokens, dtype=torch.bool))
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens.roll(1, dims=1)).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def test_with_the_published_maximum_nothing_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(9)
    old = published.PerformerLM(**OPTIONS).double()
    new = twin.PerformerLM(**OPTIONS).double()
    new.load_state_dict(old.state_dict(), strict=True)
    tokens = torch.randint(0, 11, (2, 64))
    expected, reference = results(old, tokens)
    key = "performer.net.layers.0.0.fn.to_k.weight"

    logits, gradients = results(new, tokens)
    assert error(gradients[key], reference[key]) > 1e-3  # the leak
    assert error(logits, expected) < 2e-3

    causal = fast_attention.causal_linear_attention

    def leaking(*arguments: Any, candidates: Tensor, **options: Any) -> Any:
        return causal(*arguments, candidates=candidates.amax(dim=-1, keepdim=True).expand_as(candidates), **options)

    monkeypatch.setattr(fast_attention, "causal_linear_attention", leaking)
    logits, gradients = results(new, tokens)
    assert error(logits, expected) < 1e-6
    assert error(gradients[key], reference[key]) < 1e-4
