"""Hugging Face's `evaluate`, without a network: an evaluator over a classifier of ours, with a metric written on the spot."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("evaluate")

import datasets
import evaluate

import subquadratic as sq
import subquadratic.hf
from subquadratic.hf.tokenizers import stock_tokenizer


class Accuracy(evaluate.Metric):
    def _info(self) -> Any:
        integers = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=integers)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": sum(a == b for a, b in zip(predictions, references, strict=True)) / len(references)}


def test_an_evaluator_finds_the_accuracy_that_we_do(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = sq.FastformerConfig(dim=16, depth=1, heads=2, causal=False)
    ours = sq.SequenceClassifier(config, num_classes=2, vocab_size=260, labels=["bad", "good"]).eval()
    ours.save_pretrained(tmp_path)
    texts = ["a fine film", "b", "so long that nobody stays awake", "é", "0123456789"]
    with torch.no_grad():
        classes = [int(ours(torch.tensor([list(text.encode())])).argmax()) for text in texts]
    labels = [1 - classes[0], *classes[1:]]  # all but one as the model has it

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = stock_tokenizer(None, vocab_size=260, padding_side="right")
    data = datasets.Dataset.from_dict({"text": texts, "label": labels})
    evaluator = evaluate.evaluator("text-classification")
    found = evaluator.compute(model, data, metric=Accuracy(), tokenizer=tokenizer, label_mapping={"bad": 0, "good": 1})
    assert found["accuracy"] == pytest.approx(4 / 5)
