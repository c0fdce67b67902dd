"""Checkpointing of long causal sequences: segment by segment through the state, with the same values and gradients."""

import pytest
import torch

import subquadratic as sq
from subquadratic.models import backbone

SIZE = {"dim": 16, "depth": 2, "heads": 2}
CONFIGS = {
    "performer": (sq.PerformerConfig, {"features": 8, "token_shift": True}),
    "performer-local": (sq.PerformerConfig, {"features": 8, "local_heads": 1, "local_window": 4}),
    "performer-context": (sq.PerformerConfig, {"features": 8, "cross_attention": True}),
    "linformer": (sq.LinformerConfig, {"max_length": 64, "slots": 4}),
    "fastformer": (sq.FastformerConfig, {}),
}


def build(name: str, **options: bool) -> sq.LanguageModel:
    torch.manual_seed(0)
    kind, fields = CONFIGS[name]
    return sq.LanguageModel(kind(**SIZE, **fields, **options), vocab_size=11, max_length=64).double()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_the_whole(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "STRETCH", 14)  # 7 positions of 2 rows: 5 stretches and a rest
    tokens = torch.randint(0, 11, (2, 38))
    mask = torch.rand(2, 38) > 0.2 if masked else None
    arguments = {"context": torch.randn(2, 5, 16, dtype=torch.float64)} if name.endswith("context") else {}
    found = []
    for checkpointing in (False, True):
        model = build(name, checkpointing=checkpointing)
        if checkpointing:
            passes = []
            monkeypatch.setattr(model.backbone, "_extend", lambda *a, run=model.backbone._extend, seen=passes: seen.append(a) or run(*a))
        loss = model.loss(tokens, mask, **arguments)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(passes) == 12  # six forward, six again
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-11)


def test_short_sequences_and_growing_states_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "STRETCH", 8)
    x = torch.randn(1, 40, 16)
    for config, cut in (
        (sq.PerformerConfig(**SIZE, checkpointing=True), True),
        (sq.PerformerConfig(**SIZE), False),
        (sq.PerformerConfig(**SIZE, checkpointing=True, causal=False), False),
        (sq.TransformerConfig(**SIZE, checkpointing=True), False),
    ):
        model = config.build()
        assert model.streams_in_backward(*x.shape[:2]) is cut
        assert not model.streams_in_backward(1, 16)
        with torch.no_grad():
            assert not model.streams_in_backward(*x.shape[:2])
