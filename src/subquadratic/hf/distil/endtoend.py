"""The second part of a distillation: the whole student, on its own hidden states, to what the original made of the same tokens.

Axes: B batch, N length, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layerwise import body, relative_error, without_cache
from .models import Pair

POOLED = 4.0  # weight of the pooled vectors' cosine beside the error of hidden states
NEXT = 0.02  # weight of the next token itself beside the teacher's distribution of it; more leads away from the teacher


def end_to_end_loss(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    """Encoders: the error of all hidden states and of the pooled vectors. Language models: Kullback-Leibler divergence to the teacher's
    distributions (arXiv 1503.02531, temperature 1), and the next token."""
    mask = inputs["attention_mask"].bool()
    if pair.causal:
        return _causal_loss(pair, inputs, mask)
    with torch.no_grad():
        expected = hidden_states(pair.teacher, inputs)
    output = hidden_states(pair.student, inputs)
    errors = torch.stack([relative_error(one, other, mask) for one, other in zip(output[1:], expected[1:], strict=True)])
    pooled = F.cosine_similarity(pair.pool(output[-1], mask), pair.pool(expected[-1], mask))
    return errors.mean() + errors[-1] + POOLED * (1 - pooled).mean()


def hidden_states(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """(B, N, D) each: of the embedding and of every layer."""
    part = body(model)
    found: tuple[Tensor, ...] = part(**inputs, output_hidden_states=True, **without_cache(part)).hidden_states
    return found


def _causal_loss(pair: Pair, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
    with torch.no_grad():
        expected = pair.teacher(**inputs, use_cache=False).logits[mask].log_softmax(dim=-1)  # (real, V)
    logits = pair.student(**inputs, use_cache=False).logits
    divergence = F.kl_div(logits[mask].log_softmax(dim=-1), expected, log_target=True, reduction="batchmean")
    follows = mask[:, 1:]
    if not bool(follows.any()):
        return divergence
    return divergence + NEXT * F.cross_entropy(logits[:, :-1][follows], inputs["input_ids"][:, 1:][follows])


def all_parameters(pair: Pair) -> list[nn.Parameter]:
    """What is learned end to end: everything but tables of tokens and positions, which most texts do not touch."""
    tables = {id(one) for module in pair.student.modules() if isinstance(module, nn.Embedding) for one in module.parameters()}
    student: Any = pair.student
    head = student.get_output_embeddings() if hasattr(student, "get_output_embeddings") else None
    tables |= {id(one) for one in head.parameters()} if isinstance(head, nn.Module) else set()
    return [one for one in pair.student.parameters() if id(one) not in tables]
