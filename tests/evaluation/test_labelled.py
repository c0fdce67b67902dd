"""Scores of classifiers and encoder-decoders against one row at a time."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import subquadratic as sq
from subquadratic.evaluation.labelled import evaluate_classes, evaluate_pairs

SIZES: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = pad_sequence(rows, batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def some_rows(count: int) -> list[torch.Tensor]:
    return [torch.randint(0, 20, (3 + 2 * i,)) for i in range(count)]


def test_a_classifier_row_by_row() -> None:
    model = sq.SequenceClassifier(sq.PerformerConfig(**SIZES, causal=False), vocab_size=20, num_classes=3).eval()
    model.head.train()
    rows, labels = some_rows(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    batches = []
    for part in (slice(0, 4), slice(4, 7)):
        tokens, mask = padded(rows[part])
        batches.append({"tokens": tokens, "mask": mask, "labels": labels[part]})
    found = evaluate_classes(model, batches, labels=["a", "b", "c"])
    assert model.head.training
    assert not model.training
    with torch.no_grad():
        logits = torch.cat([model(row[None]) for row in rows])
    taken = logits.argmax(dim=-1)
    assert found.rows == 7
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert found.accuracy == pytest.approx(float((taken == labels).float().mean()))
    for i in range(3):
        for j in range(3):
            assert found.confusion[i][j] == int(((labels == i) & (taken == j)).sum())
        precision, recall = found.of_class(i)
        right, guessed = int(((labels == i) & (taken == i)).sum()), int((taken == i).sum())
        assert recall == pytest.approx(right / int((labels == i).sum()))
        assert precision == (pytest.approx(right / guessed) if guessed else None)


def test_an_encoder_decoder_row_by_row() -> None:
    encoder = sq.TransformerConfig(**SIZES, causal=False)
    model = sq.EncoderDecoder(encoder, sq.TransformerConfig(**SIZES, cross_attention=True), vocab_size=20).eval()
    sources, targets = some_rows(5), some_rows(5)[::-1]
    with torch.no_grad():
        logits = [model(source[None], target[None, :-1])[0] for source, target in zip(sources, targets, strict=True)]
    targets[1][1:] = logits[1].argmax(dim=-1)  # not what it would say to itself, but perhaps a row that is right
    with torch.no_grad():
        logits = [model(source[None], target[None, :-1])[0] for source, target in zip(sources, targets, strict=True)]
    nats = torch.cat([F.cross_entropy(x, target[1:], reduction="none") for x, target in zip(logits, targets, strict=True)])
    right = [x.argmax(dim=-1) == target[1:] for x, target in zip(logits, targets, strict=True)]
    source, source_mask = padded(sources)
    target, target_mask = padded(targets)
    found = evaluate_pairs(model, [{"source": source, "source_mask": source_mask, "target": target, "target_mask": target_mask}])
    assert (found.rows, found.predicted) == (5, len(nats))
    assert found.loss == pytest.approx(float(nats.mean()), rel=1e-5)
    assert found.accuracy == pytest.approx(float(torch.cat(right).float().mean()))
    assert found.exact == pytest.approx(sum(bool(row.all()) for row in right) / 5)


def test_nothing_and_no_number_are_told() -> None:
    model = sq.SequenceClassifier(sq.FastformerConfig(**SIZES, causal=False), vocab_size=20, num_classes=2)
    with pytest.raises(ValueError, match="nothing to predict"):
        evaluate_classes(model, [], labels=["a", "b"])
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    batch = {"tokens": torch.zeros(1, 2, dtype=torch.int64), "mask": torch.ones(1, 2, dtype=torch.bool), "labels": torch.ones(1).long()}
    with pytest.raises(ValueError, match="loss is nan"):
        evaluate_classes(model, [batch], labels=["a", "b"])
