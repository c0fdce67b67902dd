"""Our models in `Trainer` and `Seq2SeqTrainer` of transformers: what is computed, saved and predicted is as of stock models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.hf.models import CAUSAL, SMALL, VOCAB, causal, louder, tokens
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

import subquadratic as sq
from subquadratic.hf import (
    SubquadraticConfig,
    SubquadraticForCausalLM,
    SubquadraticForMaskedLM,
    SubquadraticForSeq2SeqLM,
    SubquadraticForSequenceClassification,
    SubquadraticForTokenClassification,
)

IGNORED = -100
RECOMPUTE = "activation_checkpointing" if "activation_checkpointing" in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"


def of_head(head: str) -> Any:
    """A small model of each head."""
    torch.manual_seed(0)
    both = sq.TransformerConfig(**SMALL, causal=False)
    if head == "causal":
        return causal("gated_linear")
    if head == "masked":
        return louder(SubquadraticForMaskedLM(SubquadraticConfig(backbone=both, vocab_size=VOCAB)))
    if head == "tokens":
        return louder(SubquadraticForTokenClassification(SubquadraticConfig(backbone=both, vocab_size=VOCAB, num_labels=5)))
    if head == "sequence":
        return louder(SubquadraticForSequenceClassification(SubquadraticConfig(backbone=both, vocab_size=VOCAB, num_labels=3)))
    decoder = sq.TransformerConfig(**SMALL, cross_attention=True)
    config = SubquadraticConfig(backbone=decoder, encoder_backbone=both, vocab_size=VOCAB, decoder_start_token_id=0, pad_token_id=0)
    return louder(SubquadraticForSeq2SeqLM(config))


HEADS = ["causal", "masked", "tokens", "sequence", "seq2seq"]


def rows(head: str, count: int = 8, length: int = 9) -> list[dict[str, Tensor]]:
    """Padded on the right, with as many labels in each as its number says."""
    given, real = tokens(count, length), torch.arange(length) < torch.arange(count)[:, None] % 7 + 2
    found = []
    for row in range(count):
        example = {"input_ids": given[row].masked_fill(~real[row], 0), "attention_mask": real[row].long()}
        if head == "sequence":
            example["labels"] = torch.tensor(row % 3)
        else:
            example["labels"] = (given[row] % 5 if head == "tokens" else given[row]).masked_fill(~real[row], IGNORED)
        if head == "seq2seq":
            example["decoder_input_ids"] = example["labels"].roll(1).clamp_min(0).index_fill(0, torch.tensor([0]), 0)
        found.append(example)
    return found


def trainer(model: Any, data: Any, folder: Path, *, kind: Any = Trainer, **given: Any) -> Any:
    """A Trainer of one step of plain gradient descent without clipping, but for what is ``given``."""
    arguments = Seq2SeqTrainingArguments if kind is Seq2SeqTrainer else TrainingArguments
    options: dict[str, Any] = {
        "max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0, "use_cpu": True,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 8,
    }  # fmt: skip
    return kind(model=model, args=arguments(output_dir=str(folder), **options | given), train_dataset=data, eval_dataset=data)


def losses(of: Any) -> list[float]:
    return [entry["loss"] for entry in of.state.log_history if "loss" in entry]


def same_weights(one: Any, other: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    for (name, mine), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("head", HEADS)
def test_accumulated_is_one_big_batch(head: str, smoothing: float, tmp_path: Path) -> None:
    data, found = rows(head), []
    for batch, accumulation in ((8, 1), (2, 4)):
        one = trainer(
            of_head(head), data, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            label_smoothing_factor=smoothing,
        )  # fmt: skip
        one.train()
        found.append(one)
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=1e-5)
    same_weights(found[0].model, found[1].model)
    assert any(not torch.equal(a, b) for a, b in zip(found[0].model.parameters(), of_head(head).parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_smoothed_labels_are_the_next_tokens(name: str, tmp_path: Path) -> None:
    data, model = rows("causal"), causal(name)
    one = trainer(model, data, tmp_path, label_smoothing_factor=0.3, per_device_train_batch_size=8)
    one.train()
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    fresh = causal(name).train()
    logits = fresh(**batch).logits  # with labels: the outputs that training is on
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.3)
    expected.backward()
    assert losses(one) == pytest.approx([expected.item()], rel=1e-5)
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    same_weights(one.model, fresh)


@pytest.mark.parametrize("head", HEADS)
def test_predictions_and_evaluation(head: str, tmp_path: Path) -> None:
    model, data = of_head(head), rows(head)
    one = trainer(model, data, tmp_path, per_device_eval_batch_size=8)
    found = one.predict(data)
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    with torch.no_grad():
        expected = model.eval()(**batch)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert one.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5) == found.metrics["test_loss"]
    for prediction in found.predictions if isinstance(found.predictions, tuple) else [found.predictions]:
        assert prediction is not None and np.isfinite(prediction).all()


def test_predict_with_generate(tmp_path: Path) -> None:
    model, data = of_head("seq2seq"), rows("seq2seq")
    one = trainer(
        model, data, tmp_path, kind=Seq2SeqTrainer, predict_with_generate=True, generation_max_length=8, per_device_eval_batch_size=4
    )
    one.train()
    found = one.predict(data).predictions
    batch = {key: torch.stack([row[key] for row in data]) for key in ("input_ids", "attention_mask")}
    expected = model.generate(**batch, max_length=8, do_sample=False)
    assert np.array_equal(found[:, : expected.shape[1]], expected.numpy())


@pytest.mark.parametrize("name", ["performer", "feedback_transformer", "perceiver_ar", "fastformer"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_is_kept(name: str, reentrant: bool, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        one = trainer(
            causal(name), rows("causal"), tmp_path, max_steps=2,
            **{RECOMPUTE: checkpointing, f"{RECOMPUTE}_kwargs": {"use_reentrant": reentrant} if checkpointing else None},
        )  # fmt: skip
        one.train()
        assert one.model.is_gradient_checkpointing == checkpointing
        found.append(one)
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=1e-5)
    same_weights(found[0].model, found[1].model, rtol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_reversible_models_train_as_they_are(dropout: float, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = sq.PerformerConfig(**SMALL, features=12, reversible=True, dropout=dropout)
        model = louder(SubquadraticForCausalLM(SubquadraticConfig(backbone=config, vocab_size=VOCAB)))
        one = trainer(model, rows("causal"), tmp_path, max_steps=2, **{RECOMPUTE: checkpointing})
        one.train()
        found.append(one)
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=1e-5)
    same_weights(found[0].model, found[1].model)


@pytest.mark.parametrize("name", ["performer", "gated_linear", "feedback_transformer", "fastformer"])
def test_bf16_is_near_float32(name: str, tmp_path: Path) -> None:
    found = []
    for bf16 in (False, True):
        one = trainer(causal(name), rows("causal"), tmp_path, max_steps=2, learning_rate=0.02, bf16=bf16)
        one.train()
        assert all(parameter.dtype == torch.float32 for parameter in one.model.parameters())
        found.append(losses(one))
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[1] != found[0]


@pytest.mark.slow
def test_compiled_is_uncompiled(tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        one = trainer(
            causal("performer"), rows("causal"), tmp_path, max_steps=2, torch_compile=compiled,
            torch_compile_backend="eager" if compiled else None,
        )  # fmt: skip
        one.train()
        found.append(one)
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=1e-4)
    same_weights(found[0].model, found[1].model, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["performer", "perceiver_ar"])
def test_resumed_is_uninterrupted_bit_for_bit(name: str, tmp_path: Path) -> None:
    def make(folder: str, steps: int) -> Any:
        torch.manual_seed(0)
        config = CAUSAL[name].replace(dropout=0.2)
        model = louder(SubquadraticForCausalLM(SubquadraticConfig(backbone=config, vocab_size=VOCAB)))
        return trainer(
            model, rows("causal", 16), tmp_path / folder, max_steps=steps, optim="adamw_torch", learning_rate=1e-2, save_strategy="steps",
            save_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2, lr_scheduler_type="linear", max_grad_norm=1.0,
        )  # fmt: skip

    whole = make("whole", 6)
    whole.train()
    other = make("other", 6)
    other.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(other) == losses(whole) and len(losses(whole)) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), other.model.parameters(), strict=True))


def test_a_trained_model_is_saved_with_its_cache_on(tmp_path: Path) -> None:
    one = trainer(causal("gated_linear"), rows("causal"), tmp_path, **{RECOMPUTE: True})
    one.train()
    one.save_model(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_cache"]
    again = SubquadraticForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert again(tokens(1, 3)).past_key_values is not None
    same_weights(one.model, again)
    assert not one.model.config.use_cache  # still off where training goes on
    with torch.no_grad():
        torch.testing.assert_close(sq.load(tmp_path / "saved")(tokens(1, 3)), again(tokens(1, 3)).logits)


def test_labels_that_are_smoothed_need_decoder_inputs(tmp_path: Path) -> None:
    data = [{name: row[name] for name in row if name != "decoder_input_ids"} for row in rows("seq2seq")]
    with pytest.raises(ValueError, match="DataCollatorForSeq2Seq"):
        trainer(of_head("seq2seq"), data, tmp_path, label_smoothing_factor=0.1).train()


def test_losses_that_are_not_numbers_are_told(tmp_path: Path) -> None:
    model = causal("performer")
    with torch.no_grad():
        model.model.embedding.table.weight[3] = torch.nan
    one = trainer(model, rows("causal"), tmp_path, logging_nan_inf_filter=False)
    one.train()
    assert np.isnan(losses(one)[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_the_blocks_to_shard_are_there(name: str) -> None:
    model = causal(name)
    kinds = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules and set(model._no_split_modules) <= kinds
