"""Decoding with an architecture of transformers: keys and values of the tokens so far are kept, as its own `generate` does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..foreign import ForeignModel


@dataclass(frozen=True)
class Cache:
    """What a model of transformers keeps of the tokens so far."""

    content: Any

    def nbytes(self) -> int:
        """Of its tensors, layer by layer."""
        parts = [vars(layer).values() for layer in getattr(self.content, "layers", [])]
        return sum(value.numel() * value.element_size() for part in parts for value in part if isinstance(value, Tensor))

    def rewinds(self) -> bool:
        """Whether it can give up tokens that it read; not where windows slide, or states are recurrent."""
        try:
            copy.deepcopy(self.content).crop(-1)
        except Exception:  # of a cache that somebody else wrote
            return False
        return True


@torch.no_grad()
def keeps_cache(model: Any, tokens: Tensor) -> bool:
    """Whether a model is one of transformers that gives a cache of what it read."""
    if not isinstance(model, ForeignModel) or model.spec["source"] != "transformers":
        return False
    try:
        return bool(getattr(model.net(tokens[:, :2], use_cache=True), "past_key_values", None))
    except Exception:  # of an architecture that has none
        return False


@torch.no_grad()
def read(model: ForeignModel, tokens: Tensor) -> Cache:
    """The cache after tokens (1, N); logits of the last one alone, where the architecture offers that."""
    return Cache(_call(model, tokens, None).past_key_values)


def further(model: ForeignModel, last: Tensor, cache: Cache, count: int) -> Callable[[], object]:
    """Calls that decode `count` tokens after the cache, each the likeliest; it is as before afterwards."""
    rewinds = cache.rewinds()

    @torch.no_grad()
    def decode() -> Tensor:
        token, content = last, cache.content if rewinds else copy.deepcopy(cache.content)
        for _ in range(count):
            token = _call(model, token, content).logits[:, -1:].argmax(dim=-1)
        if rewinds:
            content.crop(-count)
        return token

    return decode


def _call(model: ForeignModel, tokens: Tensor, content: Any) -> Any:
    known = signature(model.net.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    return model.net(tokens, past_key_values=content, use_cache=True, **last)
