"""How close a student is to its teacher, on texts that neither was trained on here.

Axes: T texts, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .endtoend import hidden_states
from .models import Pair

ROWS = 16  # in a batch


def measure(pair: Pair, texts: list[str], length: int) -> dict[str, float]:
    """Figures of the student beside the teacher.

    Returns:
        Of encoders "cosine" (the mean over texts, of pooled vectors), "lowest_tenth" (the cosine that a tenth of the texts are below) and
        "spearman" (of the similarities of all pairs of texts); of language models "bits_per_byte", "teacher_bits_per_byte",
        "divergence" (Kullback-Leibler, bits a token) and "agreement" (the share of tokens of which both think the same likeliest).
    """
    with torch.no_grad():
        return _causal(pair, texts, length) if pair.causal else _encoder(pair, texts, length)


def score(pair: Pair, texts: list[str], length: int) -> float:
    """One number that is larger for a better student."""
    figures = measure(pair, texts, length)
    return -figures["divergence"] if pair.causal else figures["cosine"]


def _encoder(pair: Pair, texts: list[str], length: int) -> dict[str, float]:
    ours, theirs = embed(pair, texts, length, student=True), embed(pair, texts, length, student=False)
    cosine = F.cosine_similarity(ours, theirs)
    return {
        "cosine": cosine.mean().item(),
        "lowest_tenth": cosine.quantile(0.1).item(),
        "spearman": spearman(_similarities(ours), _similarities(theirs)),
    }


def embed(pair: Pair, texts: list[str], length: int, *, student: bool) -> Tensor:
    """(T, D) pooled vectors, in the order of the texts."""
    model = pair.student if student else pair.teacher
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: list[Tensor] = []
    for start in range(0, len(order), ROWS):
        inputs = pair.encode([texts[place] for place in order[start : start + ROWS]], length)
        found.append(pair.pool(hidden_states(model, inputs)[-1], inputs["attention_mask"]))
    return torch.cat(found)[torch.tensor(order).argsort()]


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two lists of numbers, of which hardly any are equal."""
    ranks = torch.stack([one.argsort().argsort().double() for one in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _similarities(vectors: Tensor) -> Tensor:
    """The cosines of all pairs."""
    vectors = F.normalize(vectors, dim=-1)
    rows, columns = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (vectors @ vectors.T)[rows, columns]


def _causal(pair: Pair, texts: list[str], length: int) -> dict[str, float]:
    sums = dict.fromkeys(("ours", "theirs", "divergence", "agreement"), 0.0)
    tokens, size = 0, 0
    for start in range(0, len(texts), ROWS):
        inputs = pair.encode(texts[start : start + ROWS], length)
        follows = inputs["attention_mask"][:, 1:].bool()
        following = inputs["input_ids"][:, 1:][follows]
        ours, theirs = (
            model(**inputs, use_cache=False).logits[:, :-1][follows].double().log_softmax(dim=-1) for model in (pair.student, pair.teacher)
        )
        for name, one in (("ours", ours), ("theirs", theirs)):
            sums[name] += F.nll_loss(one, following, reduction="sum").item()
        sums["divergence"] += F.kl_div(ours, theirs, log_target=True, reduction="sum").item()
        sums["agreement"] += (ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum().item()
        tokens += len(following)
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            size += len(pair.tokenizer.decode(row[mask.bool()][1:]).encode("utf-8"))
    return {
        "bits_per_byte": sums["ours"] / max(size, 1) / math.log(2),
        "teacher_bits_per_byte": sums["theirs"] / max(size, 1) / math.log(2),
        "divergence": sums["divergence"] / max(tokens, 1) / math.log(2),
        "agreement": sums["agreement"] / max(tokens, 1),
    }
