"""A causal model of transformers with new weights, for a vocabulary of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")  # names of the inner width of feed-forward layers
FOUR_TIMES = 4  # what an inner width that is None is of the width


@dataclass(frozen=True)
class Sizes:
    """Of an architecture: width, inner width, heads, and heads of keys and values."""

    dim: int
    inner: int
    heads: int
    key_heads: int


def own_sizes(folder: str | os.PathLike[str]) -> Sizes | None:
    """What the config.json in a folder says; None where it names them otherwise than most do."""
    config: Any = AutoConfig.from_pretrained(folder)
    dim, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    name = _inner_name(config)
    if not isinstance(dim, int) or not isinstance(heads, int) or name is None:
        return None
    return Sizes(dim, getattr(config, name) or FOUR_TIMES * dim, heads, getattr(config, "num_key_value_heads", None) or heads)


def causal_architecture(folder: str | os.PathLike[str], *, vocab_size: int, length: int, sizes: dict[str, int] | None = None) -> nn.Module:
    """The model that a folder's config.json describes, with random weights, from tokens below `vocab_size`.

    Args:
        folder: with a config.json.
        vocab_size: in place of its own; no token of its own is special.
        length: tokens that it must take at least; a table of positions that is shorter is made so long.
        sizes: "dim" and "inner" in place of its own width and inner width; None or empty: its own.

    Raises:
        OSError, ValueError: no such model, or none that is causal.
    """
    config: Any = AutoConfig.from_pretrained(folder)
    config.vocab_size, config.use_cache = vocab_size, False
    for name in SPECIAL:
        setattr(config, name, None)
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and most < length:
        config.max_position_embeddings = length
    if sizes:
        _resize(config, **sizes)
    return AutoModelForCausalLM.from_config(config)


def _resize(config: Any, *, dim: int, inner: int) -> None:
    """Width and inner width; widths of a head, and of embeddings, that follow from the width go with it."""
    heads, before = config.num_attention_heads, config.hidden_size
    if dim % heads:
        raise ValueError(f"dim must be a multiple of the {heads} heads, got {dim}")
    config.hidden_size = dim
    following = {"head_dim": (before // heads, dim // heads), "word_embed_proj_dim": (before, dim), "embedding_size": (before, dim)}
    for name, (own, new) in following.items():
        if getattr(config, name, None) == own:
            setattr(config, name, new)
    setattr(config, _inner_name(config) or INNER[0], inner)


def _inner_name(config: Any) -> str | None:
    return next((name for name in INNER if hasattr(config, name)), None)
