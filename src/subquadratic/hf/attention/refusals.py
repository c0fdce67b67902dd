"""What our attention does not do, said in one line before anything is computed."""

from typing import Any

from torch import nn

WHAT = {
    "position_bias": "adds a position bias to the scores",
    "attention_bias": "adds a bias to the scores",
    "alibi": "adds a position bias to the scores",
    "bias": "adds a bias to the scores",
    "softcap": "caps its scores",
    "s_aux": "has attention sinks",
    "sinks": "has attention sinks",
    "indices": "selects the keys of each query",
    "block_indices": "selects the keys of each query",
    "head_mask": "is given a head mask",
    "cache": "is given a paged cache",
}


def refuse(name: str, module: nn.Module, why: str) -> NotImplementedError:
    """The error for a module that cannot have the implementation ``name``."""
    other = 'load this model with "sdpa" or "eager"'
    return NotImplementedError(f'{type(module).__name__} {why}, which attn_implementation="{name}" cannot do: {other}')


def check_keywords(name: str, module: nn.Module, keywords: dict[str, Any]) -> None:
    """Raises NotImplementedError for a keyword of transformers that would change the result and that we do not implement."""
    for keyword, why in WHAT.items():
        if keywords.get(keyword) is not None:
            raise refuse(name, module, f"{why} ({keyword})")
    if keywords.get("output_attentions") or getattr(getattr(module, "config", None), "output_attentions", False):
        raise refuse(name, module, "is asked for its attention weights (output_attentions=True)")
