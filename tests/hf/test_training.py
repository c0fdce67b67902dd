"""The Trainer, adapters and TRL over our models: losses and gradients are what they say they are."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.hf.models import CAUSAL, SMALL, VOCAB, causal, tokens
from transformers import Trainer, TrainingArguments

from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM, SubquadraticForSequenceClassification


def arguments(folder: Path, **given: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **defaults | given)


def rows(count: int, length: int = 10) -> list[dict[str, Tensor]]:
    return [{"input_ids": text, "labels": text} for text in (tokens(1, length, seed=number)[0] for number in range(count))]


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_accumulated_loss_and_gradient_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    model, data = causal("gated_linear"), rows(4)
    text = torch.stack([row["labels"] for row in data])
    expected = float(model(text, labels=text).loss)
    kept: list[Tensor] = []
    for steps, size in ((1, 4), (2, 2), (4, 1)):
        trainer = Trainer(
            model,
            arguments(tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=0.0),
            train_dataset=data,
        )
        trainer.add_callback(Keep(kept))
        trainer.train()
        assert losses(trainer)[0] == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(kept[0], kept[1], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(kept[0], kept[2], atol=1e-6, rtol=1e-3)


def keeper() -> Any:
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        """Notes the gradient of the output map before each step."""

        def __init__(self, into: list[Tensor]):
            self.into = into

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **unused: Any) -> None:
            self.into.append(model.lm_head.weight.grad.clone())

    return Keeper


Keep = keeper()


def test_label_smoothing_is_of_the_token_after(tmp_path: Path) -> None:
    model, data = causal("performer"), rows(2)
    text = torch.stack([row["labels"] for row in data])
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=data)
    trainer.train()
    logits = model(text).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, text[:, 1:].flatten(), label_smoothing=0.1)
    assert losses(trainer)[0] == pytest.approx(float(expected), rel=1e-3)


def test_sequence_classification_is_not_multiplied_by_accumulation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SubquadraticForSequenceClassification(SubquadraticConfig(backbone=CAUSAL["fastformer"], vocab_size=VOCAB, num_labels=3))
    data = [{"input_ids": tokens(1, 6, seed=number)[0], "labels": torch.tensor(number % 3)} for number in range(4)]
    text, labels = torch.stack([row["input_ids"] for row in data]), torch.stack([row["labels"] for row in data])
    trainer = Trainer(
        model, arguments(tmp_path, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=4), train_dataset=data
    )
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(float(model(text, labels=labels).loss), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in CAUSAL if name != "feedback_segments"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    model, text = causal(name).train(), tokens(2, 14)
    model(text, labels=text).loss.backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.model.backbone.config.checkpointing
    model(text, labels=text).loss.backward()
    for one, parameter in zip(plain, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-3)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing and not model.model.backbone.config.checkpointing


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    def run(resume: bool) -> dict[str, Tensor]:
        options = arguments(tmp_path, max_steps=4, learning_rate=1e-2, seed=3, save_strategy="steps", save_steps=2)
        trainer = Trainer(causal("performer"), options, train_dataset=rows(12))
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if resume else None)
        return dict(trainer.model.state_dict())

    whole, resumed = run(False), run(True)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_perceiver_ar_counts_every_label(tmp_path: Path) -> None:
    """Rows longer than its latents are predicted in blocks, so that the Trainer's count of labels is the number predicted."""
    model, data = causal("perceiver_ar"), rows(2, 15)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=data)
    trainer.train()
    text = torch.stack([row["labels"] for row in data])
    logits = model(text, labels=text).logits[:, :-1].flatten(0, 1)
    assert losses(trainer)[0] == pytest.approx(float(F.cross_entropy(logits, text[:, 1:].flatten())), rel=1e-3)


@pytest.mark.parametrize("name", ["performer", "gated_linear", "perceiver_ar", "transformer"])
def test_adapters_train_save_load_and_merge(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, text = causal(name), tokens(2, 9)
    before = model(text, use_cache=False).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    changed = adapted(input_ids=text, use_cache=False).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    cached = adapted.generate(input_ids=text, max_new_tokens=8, do_sample=False)
    assert torch.equal(cached, adapted.generate(input_ids=text, max_new_tokens=8, do_sample=False, use_cache=False))
    adapted(input_ids=text, labels=text).loss.backward()
    assert any(parameter.grad is not None for key, parameter in adapted.named_parameters() if "lora" in key)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(causal(name), tmp_path)
    torch.testing.assert_close(again(input_ids=text, use_cache=False).logits, changed, atol=1e-5, rtol=1e-4)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(text, use_cache=False).logits, changed, atol=2e-4, rtol=1e-3)


def test_prompt_tuning() -> None:
    peft = pytest.importorskip("peft")
    model, text = causal("performer"), tokens(2, 6)
    tuned = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    tuned(input_ids=text, attention_mask=torch.ones_like(text), labels=text).loss.backward()
    assert tuned.generate(input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=4, do_sample=False).shape[0] == 2


def test_trl_computes_the_same_loss_from_packed_rows(tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from tests.hf.test_generate import byte_tokenizer

    model, tokenizer = causal("performer"), byte_tokenizer()
    texts = ["abcdefg", "hijk", "lmnopqr", "st"]
    config = trl.SFTConfig(
        str(tmp_path), use_cpu=True, report_to=[], max_steps=1, per_device_train_batch_size=4, learning_rate=0.0, logging_steps=1,
        padding_free=True, max_length=None, save_strategy="no", disable_tqdm=True, eos_token="a", bf16=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model, config, train_dataset=datasets.Dataset.from_dict({"text": texts}), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 1 and (batch["position_ids"] == 0).sum() == 4
    trainer.train()
    bounds = [*(batch["position_ids"][0] == 0).nonzero()[:, 0].tolist(), batch["input_ids"].shape[1]]
    total, count = 0.0, 0
    for start, stop in pairwise(bounds):
        document = batch["input_ids"][:, start:stop]
        logits = model(document, use_cache=False).logits[0, :-1]
        total += float(F.cross_entropy(logits, document[0, 1:], reduction="sum"))
        count += stop - start - 1
    assert losses(trainer)[0] == pytest.approx(total / count, rel=1e-3)


def test_a_fresh_model_of_a_configuration_trains() -> None:
    torch.manual_seed(0)
    model = SubquadraticForCausalLM(SubquadraticConfig(backbone={"model_type": "gated_linear", **SMALL}, vocab_size=VOCAB)).train()
    optimizer, text = torch.optim.AdamW(model.parameters(), lr=1e-2), tokens(4, 12)
    first = None
    for _ in range(30):
        loss = model(text, labels=text).loss
        first = float(loss) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None and float(loss) < 0.6 * first
