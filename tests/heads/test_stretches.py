"""The loss of a long sequence with checkpointing: no hidden state of the whole, and the same loss and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquadratic as sq
from subquadratic.heads import stretches
from subquadratic.models import backbone

SIZE: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}


def build(*, tie: bool = False, **options: Any) -> sq.LanguageModel:
    torch.manual_seed(0)
    config = sq.PerformerConfig(**SIZE, features=8, **options)
    return sq.LanguageModel(config, vocab_size=11, max_length=64, tie_embeddings=tie).double()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what the final norm is given."""
    monkeypatch.setattr(backbone, "STRETCH", 14)  # 7 positions of 2 rows: 5 stretches and a rest
    seen: list[int] = []
    own = nn.LayerNorm.forward

    def forward(self: nn.LayerNorm, x: Tensor) -> Tensor:
        seen.append(x.shape[1])
        return own(self, x)

    monkeypatch.setattr(nn.LayerNorm, "forward", forward)
    return seen


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("options", [{}, {"positions": "learned"}, {"token_shift": True}], ids=str)
@pytest.mark.parametrize("tie", [True, False])
def test_loss_and_gradients_are_those_of_the_whole(sizes: list[int], scored: bool, options: dict[str, Any], tie: bool) -> None:
    tokens = torch.randint(0, 11, (2, 38))
    counted = torch.rand(2, 38) > 0.5 if scored else None
    found = []
    for checkpointing in (False, True):
        sizes.clear()
        model = build(tie=tie, checkpointing=checkpointing, **options)
        loss = model.loss(tokens, scored=counted)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert max(sizes) == 7
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-11)


def test_nothing_scored_is_a_loss_of_zero(sizes: list[int]) -> None:
    model = build(checkpointing=True)
    loss = model.loss(torch.randint(0, 11, (2, 38)), scored=torch.zeros(2, 38, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_whoever_watches_a_part_sees_one_call(sizes: list[int]) -> None:
    model, calls = build(checkpointing=True), []
    model.backbone.register_forward_hook(lambda module, given, result: calls.append(result.shape[1]))
    model.loss(torch.randint(0, 11, (2, 38))).backward()
    assert calls == [37]


def test_wrong_tokens_are_told_as_ever(sizes: list[int]) -> None:
    model, tokens = build(checkpointing=True), torch.randint(0, 11, (2, 38))
    tokens[1, -1] = 11
    with pytest.raises(ValueError, match="less than vocab_size=11"):
        model.loss(tokens)
    with pytest.raises(ValueError, match="scored"):
        model.loss(tokens, scored=torch.ones(2, 3, dtype=torch.bool))


def test_masked_batches_and_transforms_are_not_streamed_by_the_head(sizes: list[int]) -> None:
    model, tokens = build(checkpointing=True), torch.randint(0, 11, (2, 38))
    parts = (model.embedding, model.backbone, model.norm)
    assert stretches.goes_in_stretches(tokens, *parts)
    with torch.no_grad():
        assert not stretches.goes_in_stretches(tokens, *parts)
    model.loss(tokens, torch.rand(2, 38) > 0.2).backward()
    assert max(sizes) > 7
