"""A causal model of transformers with new weights, for a vocabulary of ours."""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def causal_architecture(folder: str | os.PathLike[str], *, vocab_size: int, length: int) -> nn.Module:
    """The model that a folder's config.json describes, with random weights, from tokens below `vocab_size`.

    Args:
        folder: with a config.json.
        vocab_size: in place of its own; no token of its own is special.
        length: tokens that it must take at least; a table of positions that is shorter is made so long.

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
    return AutoModelForCausalLM.from_config(config)
