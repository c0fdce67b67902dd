"""`pipeline` of transformers over our encoders: what comes back is what the model says, in batches of unequal lengths too."""

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
from tests.hf.letters import tokenizer
from tests.hf.models import BIDIRECTIONAL, VOCAB, louder
from transformers import pipeline

from subquadratic.hf import (
    SubquadraticConfig,
    SubquadraticForMaskedLM,
    SubquadraticForSequenceClassification,
    SubquadraticForTokenClassification,
    SubquadraticModel,
)

TEXTS = ["hello", "a", "fastpaths"]
NAMES = ["low", "middle", "high"]


def model(kind: Any, name: str, **given: Any) -> Any:
    torch.manual_seed(0)
    config = SubquadraticConfig(backbone=BIDIRECTIONAL[name], vocab_size=VOCAB, **given)
    return louder(kind(config)).eval()


def alone(one: Any, text: str) -> torch.Tensor:
    """What a model says of a text by itself."""
    with torch.no_grad():
        out = one(torch.tensor(tokenizer()([text])["input_ids"]))
    return out.last_hidden_state[0] if "last_hidden_state" in out else out.logits[0]


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_features(name: str) -> None:
    one = model(SubquadraticModel, name)
    found = pipeline("feature-extraction", model=one, tokenizer=tokenizer(), device="cpu")(TEXTS, batch_size=3, return_tensors=True)
    for text, features in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(features[0][: len(text)], alone(one, text), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_classes_of_texts(name: str) -> None:
    one = model(SubquadraticForSequenceClassification, name, id2label=dict(enumerate(NAMES)), label2id={})
    found = pipeline("text-classification", model=one, tokenizer=tokenizer(), device="cpu")(TEXTS, batch_size=3, top_k=None)
    for text, scores in zip(TEXTS, found, strict=True):
        by_name = {entry["label"]: entry["score"] for entry in scores}
        torch.testing.assert_close(torch.tensor([by_name[label] for label in NAMES]), alone(one, text).softmax(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_classes_of_tokens(name: str) -> None:
    one = model(SubquadraticForTokenClassification, name, id2label=dict(enumerate(NAMES)), label2id={})
    found = pipeline("token-classification", model=one, tokenizer=tokenizer(), device="cpu", ignore_labels=[])(TEXTS, batch_size=3)
    for text, entries in zip(TEXTS, found, strict=True):
        assert [entry["word"] for entry in entries if entry["word"] != "[PAD]"] == list(text)
        best = [NAMES[number] for number in alone(one, text).argmax(1)]
        assert [entry["entity"] for entry in entries if entry["word"] != "[PAD]"] == best


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_masks_are_filled(name: str) -> None:
    one, letters = model(SubquadraticForMaskedLM, name), tokenizer(mask_token="[MASK]")
    assert letters.mask_token_id == VOCAB  # which is what a model takes for hidden where nothing else is said
    found = pipeline("fill-mask", model=one, tokenizer=letters, device="cpu")("he[MASK]lo", top_k=2)
    with torch.no_grad():
        expected = one(torch.tensor(letters(["he[MASK]lo"])["input_ids"])).logits[0, 2].softmax(0).topk(2)
    assert [entry["token"] for entry in found] == expected.indices.tolist()
    assert [entry["score"] for entry in found] == pytest.approx(expected.values.tolist(), rel=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_an_empty_text_is_by_itself_what_it_is_in_a_batch(name: str, pooling: str) -> None:
    one = model(SubquadraticForSequenceClassification, name, id2label=dict(enumerate(NAMES)), label2id={}, pooling=pooling)
    classes = pipeline("text-classification", model=one, tokenizer=tokenizer(), device="cpu")
    assert classes("", top_k=None) == classes(["", "hello"], batch_size=2, top_k=None)[0]
    features = pipeline("feature-extraction", model=model(SubquadraticModel, name), tokenizer=tokenizer(), device="cpu")
    assert features("", return_tensors=True).shape == (1, 0, 16)
