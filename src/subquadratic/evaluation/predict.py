"""Classes of new rows from a classifier, and targets from an encoder-decoder, in the order of the rows and in bounded memory.

Rows are read into a pool, which is sorted by length so that little of a batch is padding, and given out in the order they came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import collate
from ..data.new_rows import NewRow
from ..data.tokenizers.bytes import Tokenizer
from ..generation.text import known_end
from ..layers.modes import evaluating

POOL_BATCHES = 32  # batches of rows in a pool, and
POOL_TOKENS = 1 << 20  # the tokens that end one earlier
BATCH_TOKENS = 1 << 16  # of a batch, padding among them; a longer row is a batch of its own
READ_AT_ONCE = 256  # rows that are encoded together


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of a row: `probabilities` (classes,) of a classifier, or the `target` of an encoder-decoder and its
    `log_prob`, the logarithm of its probability. `cut` says that the row was longer than the model reads."""

    probabilities: list[float] | None = None
    target: str | None = None
    log_prob: float | None = None
    cut: bool = False


Predict = Callable[[Tensor, Tensor], list[Prediction]]  # tokens (B, N) and their mask


@torch.no_grad()
def predict_rows(
    model: Any, tokenizer: Tokenizer, rows: Iterable[NewRow], predict: Predict, *, batch_size: int, max_length: int | None
) -> Iterator[list[tuple[NewRow, Prediction | None]]]:
    """Pools of rows with what `predict` (of `classifying` or `translating`) says of them; None for a row without text.

    Args:
        model: in eval mode while a pool is worked on.
        batch_size: rows side by side at most.
        max_length: tokens of a row that are read; None: all.
    """
    pool: list[tuple[NewRow, NDArray[Any]]] = []
    size = 0
    for part in _read(rows):
        tokens = _encoded(tokenizer, [row.text for row in part])
        pool += zip(part, tokens, strict=True)
        size += sum(map(len, tokens))
        if len(pool) >= POOL_BATCHES * batch_size or size >= POOL_TOKENS:
            yield _of_pool(model, tokenizer, pool, predict, batch_size, max_length)
            pool, size = [], 0
    if pool:
        yield _of_pool(model, tokenizer, pool, predict, batch_size, max_length)


def classifying(model: Any) -> Predict:
    """The probabilities of a SequenceClassifier's classes."""
    device = next(model.parameters()).device

    def predict(tokens: Tensor, mask: Tensor) -> list[Prediction]:
        shares = model(tokens.to(device), mask=mask.to(device)).double().softmax(dim=-1).cpu()
        if not bool(shares.isfinite().all()):
            raise ValueError("run: the model's probabilities are NaN: its weights are damaged or overflow; use another checkpoint")
        return [Prediction(probabilities=row) for row in shares.tolist()]

    return predict


def translating(model: Any, tokenizer: Tokenizer, *, start_token: int, max_new_tokens: int) -> Predict:
    """The targets that an EncoderDecoder writes, by greedy decoding."""
    device, end = next(model.parameters()).device, known_end(tokenizer, model.decoder.vocab_size)

    def predict(tokens: Tensor, mask: Tensor) -> list[Prediction]:
        first = torch.full((len(tokens), 1), start_token, device=device)
        written, scores = model.generate(
            tokens.to(device),
            first,
            source_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            eos_token=end,
            return_log_probs=True,
        )
        targets = [tokenizer.decode(_until(row, end)) for row in written[:, 1:].tolist()]
        return [Prediction(target=text, log_prob=score) for text, score in zip(targets, scores.double().sum(dim=1).tolist(), strict=True)]

    return predict


def row_limit(model: Any) -> int | None:
    """The most tokens of a row that a model reads; None: any number."""
    config = getattr(model, "config", None) or getattr(model, "encoder_config", None)
    places = (model, getattr(model, "embedding", None), config)
    limits = [limit for place in places if (limit := getattr(place, "max_length", None)) is not None]
    return min(limits, default=None)


def _until(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _read(rows: Iterable[NewRow]) -> Iterator[list[NewRow]]:
    """Some at a time, and no more text than a pool."""
    part: list[NewRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row.text)
        if len(part) == READ_AT_ONCE or size >= POOL_TOKENS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _encoded(tokenizer: Tokenizer, texts: list[bytes]) -> list[NDArray[Any]]:
    encode_batch = getattr(tokenizer, "encode_batch", None)
    return [tokenizer.encode(text) for text in texts] if encode_batch is None else encode_batch(texts)


def _of_pool(
    model: Any,
    tokenizer: Tokenizer,
    pool: list[tuple[NewRow, NDArray[Any]]],
    predict: Predict,
    batch_size: int,
    max_length: int | None,
) -> list[tuple[NewRow, Prediction | None]]:
    found: list[Prediction | None] = [None] * len(pool)
    lengths = [len(tokens) if max_length is None else min(len(tokens), max_length) for _, tokens in pool]
    order = sorted((index for index, length in enumerate(lengths) if length), key=lengths.__getitem__, reverse=True)
    with evaluating(model):
        while order:
            taken = max(1, min(batch_size, BATCH_TOKENS // lengths[order[0]]))
            batch, order = order[:taken], order[taken:]
            items = [{"tokens": torch.from_numpy(pool[index][1][: lengths[index]].astype(np.int64))} for index in batch]
            stacked = collate(items, tokenizer.pad_token)
            for index, prediction in zip(batch, predict(stacked["tokens"], stacked["mask"]), strict=True):
                cut = lengths[index] < len(pool[index][1])
                found[index] = Prediction(**{**vars(prediction), "cut": cut})
    return [(row, prediction) for (row, _), prediction in zip(pool, found, strict=True)]
