"""Every backbone and option that the laws are tested on. A new mechanism gets the whole matrix by being listed here."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquadratic as sq

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}
LENGTH = 26

# One entry per backbone: its configuration class, what a small one needs, and the options that the laws must survive.
BACKBONES: dict[str, tuple[type[sq.BackboneConfig], dict[str, Any], list[dict[str, Any]]]] = {
    "performer": (
        sq.PerformerConfig,
        {"features": 12},
        [
            {},
            {"token_shift": True},
            {"kernel": "relu"},
            {"kernel": "efficient", "features": None},
            {"feature_epsilon": 1e-3},
            {"estimator": "optimal", "center": True, "balance": "channel"},
            {"estimator": "dense", "center": True, "balance": "full"},
            {"estimator": "dense", "local_heads": 1, "local_window": 4},
            {"local_heads": 1, "local_window": 4},
            {"local_heads": (2, 0), "local_window": 5},
            {"qk_norm": True, "qkv_bias": True},
            {"reversible": True, "token_shift": 3},
            {"norm": "rezero", "ff_glu": True},
            {"norm": "scale", "ff_chunks": 3, "positions": "fixed"},
            {"positions": "learned", "orthogonal_scaling": 1},
            {"positions": "axial", "out_bias": False},
            {"positions": None, "head_dim": 6},
            {"checkpointing": True},
        ],
    ),
    "linformer": (
        sq.LinformerConfig,
        {"max_length": 40, "slots": 5},
        [
            {},
            {"share": "kv"},
            {"share": "layer"},
            {"share": "layer", "reversible": True},
            {"share": "layer", "token_shift": 2},
            {"one_kv_head": True, "positions": None},
            {"projection": "pool"},
            {"projection": "conv", "share": "kv"},
            {"projection": "conv", "share": "layer", "checkpointing": True},
        ],
    ),
    "fastformer": (
        sq.FastformerConfig,
        {},
        [
            {},
            {"positions": "learned"},
            {"positions": None, "share_query_value": False},
            {"tie_logit_vectors": True},
            {"tie_logit_vectors": True, "reversible": True},
            {"token_shift": 3},
            {"norm": "scale", "checkpointing": True},
        ],
    ),
    "feedback_transformer": (
        sq.FeedbackTransformerConfig,
        {"memory_length": 7},
        [
            {},
            {"segment_length": 3},
            {"segment_length": 5, "share_key_value": False},
            {"keep_last_hidden": True},
            {"memory_length": 1},
            {"positions": "learned", "checkpointing": True},
            {"norm": "scale"},
        ],
    ),
    "gated_linear": (
        sq.GatedLinearConfig,
        {},
        [
            {},
            {"decay": "head", "token_shift": True},
            {"decay": "fixed", "key_dim": 6, "positions": "rotary", "qkv_bias": True},
            {"decay_temperature": 0.5, "decay_rank": 2, "output_gate": False},
            {"norm": "scale", "checkpointing": True},
            {"norm": "rezero"},
            {"reversible": True, "out_bias": True, "positions": "learned"},
        ],
    ),
    "perceiver_ar": (
        sq.PerceiverARConfig,
        {"latents": 6},
        [
            {},
            {"latents": 64},
            {"refill": 2},
            {"cross_depth": 2, "refill": 5},
            {"positions": "learned"},
            {"checkpointing": True},
        ],
    ),
    "transformer": (
        sq.TransformerConfig,
        {},
        [
            {},
            {"window": 3},
            {"token_shift": 5, "qk_norm": True},
            {"reversible": True},
            {"positions": "learned", "norm": "rezero"},
        ],
    ),
}


def configs(*, causal: bool | None = None) -> list[Any]:
    """All configurations as pytest parameters; ``causal`` restricts them to those that are, or are not.

    Without it, a model that has both directions is bidirectional with its defaults alone; with further options the bidirectional one is
    slow, since these change the same in both.
    """
    found = []
    for name, (kind, needed, options) in BACKBONES.items():
        for option, direction in itertools.product(options, (True, False)):
            if (causal is not None and direction is not causal) or (kind.causal_only and not direction):
                continue
            config = kind(**{**SMALL, **needed, **option, "causal": direction})
            label = "-".join([name, "causal" if direction else "both", *(f"{key}={value}" for key, value in option.items())])
            again = causal is None and not direction and bool(option)
            found.append(pytest.param(config, id=label, marks=[pytest.mark.slow] if again else []))
    return found


def language_model(config: sq.BackboneConfig, **options: Any) -> sq.LanguageModel:
    """A small model in float64 and eval mode."""
    return sq.LanguageModel(config, **{"vocab_size": 13, "max_length": 40, **options}).double().eval()


def tokens(*shape: int, vocabulary: int = 13, seed: int = 1) -> Tensor:
    """Random tokens."""
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def inputs(*shape: int, std: float = 1.0, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random activations."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std).to(dtype)


def heads(config: sq.BackboneConfig) -> dict[str, Callable[[], nn.Module]]:
    """What can be built on a configuration: the backbone itself and each head."""
    return {
        "backbone": config.build,
        "language_model": lambda: sq.LanguageModel(config, vocab_size=13, max_length=40),
        "classifier": lambda: sq.SequenceClassifier(config, vocab_size=13, num_classes=3, max_length=40),
    }


def last(y: Tensor, length: int) -> Tensor:
    """The last ``length`` outputs: a Perceiver AR gives no more."""
    return y[:, -length:]
