"""sentence-transformers over our encoders: vectors of texts that do not depend on their neighbours, trained, saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses, models
from tests.hf.letters import tokenizer
from tests.hf.models import BIDIRECTIONAL, VOCAB, louder

from subquadratic.hf import SubquadraticConfig, SubquadraticForMaskedLM, SubquadraticModel

TEXTS = ["hello", "a", "letters", "format"]  # of letters up to t


def encoder(name: str, folder: Path) -> SentenceTransformer:
    torch.manual_seed(0)
    model = SubquadraticModel(SubquadraticConfig(backbone=BIDIRECTIONAL[name], vocab_size=VOCAB))
    louder(model).save_pretrained(folder)
    tokenizer(chat_template=None).save_pretrained(folder)  # with one, every text is read as what a user says
    reader = models.Transformer(str(folder))
    return SentenceTransformer(modules=[reader, models.Pooling(reader.get_embedding_dimension())], device="cpu")


def vectors(model: SentenceTransformer, texts: list[str] = TEXTS) -> torch.Tensor:
    return model.encode(texts, convert_to_tensor=True, show_progress_bar=False)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_a_text_has_one_vector_whatever_is_beside_it(name: str, tmp_path: Path) -> None:
    model = encoder(name, tmp_path)
    batch, alone = vectors(model), torch.cat([vectors(model, [text]) for text in TEXTS])
    assert batch.shape == (4, 16)
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=1e-4)
    assert torch.pdist(batch).min() > 1e-3


def test_it_trains_and_is_saved_and_loaded(tmp_path: Path) -> None:
    model = encoder("performer", tmp_path / "base")
    data = Dataset.from_dict({"anchor": ["abc", "def", "ghi", "jkl"], "positive": ["pqr", "qrs", "rst", "aaa"]})
    options: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "bf16": False}
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(tmp_path / "run"), max_steps=12, learning_rate=1e-2, logging_steps=1, per_device_train_batch_size=4, **options
        ),
        train_dataset=data,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[-1] < 0.5 * found[0]
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    assert torch.equal(vectors(SentenceTransformer(str(tmp_path / "saved"), device="cpu")), vectors(model))


def test_a_masked_language_model_is_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = louder(SubquadraticForMaskedLM(SubquadraticConfig(backbone=BIDIRECTIONAL["linformer"], vocab_size=VOCAB))).eval()
    model.save_pretrained(tmp_path)
    tokenizer(chat_template=None).save_pretrained(tmp_path)
    ids = torch.tensor(tokenizer()(TEXTS[:1])["input_ids"])
    with torch.no_grad():
        expected = model.model(ids).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(vectors(SentenceTransformer(str(tmp_path), device="cpu"), TEXTS[:1]), expected, atol=1e-5, rtol=1e-4)
