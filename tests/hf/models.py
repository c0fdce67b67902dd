"""Small models of every backbone for the tests of `subquadratic.hf`."""

from typing import Any

import torch
from torch import Tensor

import subquadratic as sq
from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}
VOCAB = 24
CAUSAL: dict[str, sq.BackboneConfig] = {
    "performer": sq.PerformerConfig(**SMALL, features=12, local_heads=1, local_window=4, token_shift=True),
    "linformer": sq.LinformerConfig(**SMALL, max_length=80, slots=5),
    "fastformer": sq.FastformerConfig(**SMALL),
    "feedback_transformer": sq.FeedbackTransformerConfig(**SMALL, memory_length=6),
    "feedback_segments": sq.FeedbackTransformerConfig(**SMALL, memory_length=6, segment_length=3),
    "gated_linear": sq.GatedLinearConfig(**SMALL),
    "perceiver_ar": sq.PerceiverARConfig(**SMALL, latents=6),
    "perceiver_ar_refill": sq.PerceiverARConfig(**SMALL, latents=6, refill=3),
    "transformer": sq.TransformerConfig(**SMALL),
    "transformer_window": sq.TransformerConfig(**SMALL, window=5, positions="learned"),
}
BIDIRECTIONAL: dict[str, sq.BackboneConfig] = {
    "performer": sq.PerformerConfig(**SMALL, features=12, causal=False),
    "linformer": sq.LinformerConfig(**SMALL, max_length=80, slots=5, causal=False),
    "fastformer": sq.FastformerConfig(**SMALL, causal=False),
    "transformer": sq.TransformerConfig(**SMALL, causal=False),
}


def limit(config: sq.BackboneConfig) -> int | None:
    """What `max_position_embeddings` a configuration needs."""
    return 80 if config.positions in ("learned", "axial") else None


def causal(name: str, *, tie: bool = False, seed: int = 0, **given: Any) -> SubquadraticForCausalLM:
    """A causal language model with weights large enough that tokens matter."""
    torch.manual_seed(seed)
    config = CAUSAL[name]
    model = SubquadraticForCausalLM(
        SubquadraticConfig(
            backbone=config, vocab_size=VOCAB, max_position_embeddings=limit(config), tie_word_embeddings=tie, pad_token_id=0, **given
        )
    )
    return louder(model).eval()


@torch.no_grad()
def louder(model: Any) -> Any:
    """The same model with maps five times as large: with the first 0.02 no token changes what is predicted."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "table" not in name:
            parameter.mul_(5)
    return model


def tokens(rows: int, length: int, *, seed: int = 0) -> Tensor:
    """(B, N) tokens, none of them the pad id 0."""
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
