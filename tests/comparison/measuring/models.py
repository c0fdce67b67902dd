"""Tiny models of every kind, whose predictions differ from token to token, and modules that know only a part of their context."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subquadratic as sq

VOCABULARY = 400
SIZES: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 1}
CONFIGS: dict[str, sq.BackboneConfig] = {
    "performer": sq.PerformerConfig(**SIZES, features=4, local_heads=1, local_window=4),
    "linformer": sq.LinformerConfig(**SIZES, max_length=80, slots=4),
    "fastformer": sq.FastformerConfig(**SIZES),
    "feedback": sq.FeedbackTransformerConfig(**SIZES, segment_length=4, memory_length=8),
    "gated": sq.GatedLinearConfig(**SIZES),
    "perceiver": sq.PerceiverARConfig(**SIZES, latents=5),
    "perceiver of two latents": sq.PerceiverARConfig(**SIZES, latents=2),
    "transformer": sq.TransformerConfig(**SIZES),
    "masked fastformer": sq.FastformerConfig(**SIZES, causal=False),
    "masked linformer": sq.LinformerConfig(**SIZES, max_length=80, slots=4, causal=False),
}
CAUSAL = [name for name, config in CONFIGS.items() if config.causal]


def latents_of(name: str) -> int | None:
    """Of a Perceiver AR."""
    return getattr(CONFIGS[name], "latents", None)


def build(name: str) -> sq.LanguageModel:
    """With weights large enough that no two predictions agree by chance."""
    torch.manual_seed(1)
    model = sq.LanguageModel(CONFIGS[name], vocab_size=VOCABULARY, max_length=80 if "linformer" in name else None).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


class Lookup(nn.Module):
    """Not one of ours: says that a token is the one `back` places before it, or, where that is out of sight, token 0."""

    def __init__(self, back: int, *, wrong: float = 5.0) -> None:
        super().__init__()
        self.back, self.wrong, self.vocab_size = back, wrong, VOCABULARY
        self.config = SimpleNamespace(causal=True)
        self.weight = nn.Parameter(torch.zeros(1))

    def token_losses(self, tokens: Tensor, mask: Tensor | None = None, *, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        guess = F.pad(tokens, (self.back, 0))[:, : tokens.shape[1]]
        counted = scored.clone()
        counted[:, 0] = False
        right = (guess == tokens)[counted]
        return torch.where(right, 0.5, self.wrong), right, tokens[counted]
