"""TRL's trainers over our models: documents packed into one row are as they are apart, and losses count what they should."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")
pytest.importorskip("trl")
pytest.importorskip("datasets")
import trl
from datasets import Dataset
from tests.hf.letters import tokenizer
from tests.hf.models import BIDIRECTIONAL, CAUSAL, VOCAB, causal, louder, tokens
from transformers import DataCollatorWithFlattening

from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM, SubquadraticForMaskedLM

IGNORED = -100
LENGTHS = (7, 1, 13, 4, 3)


def documents() -> list[Tensor]:
    return [tokens(1, length, seed=length)[0] for length in LENGTHS]


def apart(model: Any, given: list[Tensor], labels: list[Tensor] | None = None) -> Tensor:
    """The mean loss of documents that are read one by one."""
    total, count = torch.zeros(()), 0
    for document, wanted in zip(given, labels or given, strict=True):
        if not (wanted[1:] != IGNORED).any():
            continue
        logits = model(document[None], labels=document[None]).logits[0, :-1]
        total = total + F.cross_entropy(logits, wanted[1:], reduction="sum", ignore_index=IGNORED)
        count += int((wanted[1:] != IGNORED).sum())
    return total / count


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def packed(way: str) -> dict[str, Tensor]:
    """The documents in one row, as the collators of transformers and TRL lay them."""
    rows = [{"input_ids": document.tolist()} for document in documents()]
    if way == "trl":
        return trl.trainer.sft_trainer.DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    collate = DataCollatorWithFlattening(
        return_flash_attn_kwargs="cu" in way, return_seq_idx="seq_idx" in way, return_position_ids="pos" in way
    )
    batch = collate(rows)
    return {name: value for name, value in batch.items() if name != "position_ids" or "pos" in way}


@pytest.mark.parametrize("way", ["trl", "pos", "cu", "seq_idx", "cu seq_idx pos"])
@pytest.mark.parametrize("name", CAUSAL)
def test_documents_in_one_row_do_not_see_each_other(name: str, way: str) -> None:
    model, batch = causal(name).train(), packed(way)
    assert batch["input_ids"].shape == (1, sum(LENGTHS))
    loss, expected = model(**batch, use_cache=False).loss, apart(model, documents())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients(model, loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        pieces = batch["input_ids"].split(LENGTHS, dim=1)
        logits = torch.cat([model(piece, labels=piece).logits for piece in pieces], dim=1)
        torch.testing.assert_close(model(**batch, use_cache=False).logits, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_documents_of_encoders_do_not_see_each_other(name: str) -> None:
    torch.manual_seed(0)
    model = louder(SubquadraticForMaskedLM(SubquadraticConfig(backbone=BIDIRECTIONAL[name], vocab_size=VOCAB))).eval()
    batch = packed("cu seq_idx pos")
    batch.pop("labels")
    logits = torch.cat([model(document[None]).logits for document in documents()], dim=1)
    torch.testing.assert_close(model(**batch).logits, logits, atol=1e-5, rtol=1e-4)


def sft(model: Any, data: Any, folder: Path, *, evaluated: bool = False, **given: Any) -> Any:
    """A SFTTrainer of one step of learning rate 0."""
    options: dict[str, Any] = {
        "max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False, "report_to": "none",
        "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "max_length": None, "dataset_num_proc": None,
        "per_device_eval_batch_size": 8,
    }  # fmt: skip
    return trl.SFTTrainer(
        model, trl.SFTConfig(str(folder), **options | given), train_dataset=data, eval_dataset=data if evaluated else None,
        processing_class=tokenizer(),
    )  # fmt: skip


def first_loss(trainer: Any) -> float:
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def texts() -> list[str]:
    return ["hello", "a", "fastpaths", "tests"]


def ids(text: str) -> Tensor:
    return torch.tensor(tokenizer()(text)["input_ids"])


@pytest.mark.parametrize("name", ["performer", "gated_linear", "perceiver_ar"])
@pytest.mark.parametrize(
    "options", [{}, {"padding_free": True}, {"packing": True, "max_length": 24}], ids=["padded", "padding_free", "packed"]
)
def test_sft_is_the_loss_of_documents_apart(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = causal(name)
    trainer = sft(model, Dataset.from_dict({"text": texts()}), tmp_path, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == (1 if options else 4)
    trainer.train()
    with torch.no_grad():
        expected = apart(model.train(), [ids(text + "[EOS]") for text in texts()])
    assert first_loss(trainer) == pytest.approx(expected.item(), rel=1e-4)


def test_wrapped_packing_is_a_stream_of_documents(tmp_path: Path) -> None:
    model = causal("fastformer")
    options = {"packing": True, "packing_strategy": "wrapped", "max_length": 6, "shuffle_dataset": False}
    trainer = sft(model, Dataset.from_dict({"text": texts()}), tmp_path, **options)
    trainer.train()
    stream = torch.cat([ids(text + "[EOS]") for text in texts()])
    with torch.no_grad():
        expected = apart(model.train(), list(stream.split(6)))
    assert first_loss(trainer) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("padding_free", [False, True])
def test_only_completions_count(padding_free: bool, tmp_path: Path) -> None:
    model = causal("performer")
    data = Dataset.from_dict({"prompt": ["<abc>", "<f>"], "completion": ["de", "ghijk"]})
    trainer = sft(model, data, tmp_path, padding_free=padding_free)
    trainer.train()
    whole = [ids("<abc>de[EOS]"), ids("<f>ghijk[EOS]")]
    labels = [row.index_fill(0, torch.arange(length), IGNORED) for row, length in zip(whole, (5, 3), strict=True)]
    with torch.no_grad():
        expected = apart(model.train(), whole, labels)
    assert first_loss(trainer) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("packing", [False, True])
def test_only_what_assistants_say_counts(packing: bool, tmp_path: Path) -> None:
    model = causal("gated_linear")
    said = [[("user", "ab"), ("assistant", "c"), ("user", "d"), ("assistant", "efg")], [("user", "h"), ("assistant", "ij")]]
    data = Dataset.from_dict({"messages": [[{"role": role, "content": content} for role, content in turns] for turns in said]})
    trainer = sft(model, data, tmp_path, assistant_only_loss=True, **({"packing": True, "max_length": 32} if packing else {}))
    trainer.train()
    whole = [ids("<ab>c[EOS]<d>efg[EOS]"), ids("<h>ij[EOS]")]
    counted = [[4, 5, 9, 10, 11, 12], [3, 4, 5]]
    labels = [torch.full_like(row, IGNORED).scatter(0, torch.tensor(at), row[at]) for row, at in zip(whole, counted, strict=True)]
    with torch.no_grad():
        expected = apart(model.train(), whole, labels)
    assert first_loss(trainer) == pytest.approx(expected.item(), rel=1e-4)


def test_smoothed_labels_and_evaluation(tmp_path: Path) -> None:
    model = causal("transformer")
    trainer = sft(model, Dataset.from_dict({"text": texts()}), tmp_path, evaluated=True, label_smoothing_factor=0.2, padding_free=True)
    trainer.train()
    total, count = 0.0, 0
    for text in texts():
        row = ids(text + "[EOS]")
        with torch.no_grad():
            logits = model(row[None]).logits[0, :-1]
        total += F.cross_entropy(logits, row[1:], label_smoothing=0.2, reduction="sum").item()
        count += len(row) - 1
    assert first_loss(trainer) == pytest.approx(total / count, rel=1e-4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-4)


def test_adapters_are_trained_on_packed_rows(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = causal("performer")
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(
            str(tmp_path), max_steps=3, learning_rate=0.05, use_cpu=True, bf16=False, report_to="none", logging_steps=1, packing=True,
            max_length=24, disable_tqdm=True, save_strategy="no", per_device_train_batch_size=8,
        ),
        train_dataset=Dataset.from_dict({"text": texts()}), processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=2, task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[-1] < found[0]
    base = dict(trainer.model.get_base_model().named_parameters())
    for name, parameter in frozen.items():
        torch.testing.assert_close(base[name] if name in base else base[name.replace(".weight", ".base_layer.weight")], parameter)
    trainer.save_model(str(tmp_path / "adapter"))
    again = peft.PeftModel.from_pretrained(causal("performer"), tmp_path / "adapter").eval()
    torch.testing.assert_close(again(input_ids=tokens(1, 5)).logits, trainer.model.eval()(input_ids=tokens(1, 5)).logits)


def preferences() -> Any:
    return Dataset.from_dict({"prompt": ["<ab>", "<c>"], "chosen": ["de", "fgh"], "rejected": ["ijk", "l"]})


def dpo(model: Any, folder: Path, **given: Any) -> Any:
    config = trl.DPOConfig(
        str(folder), max_steps=2, learning_rate=0.05, use_cpu=True, bf16=False, report_to="none", logging_steps=1, disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=2, optim="sgd",
    )  # fmt: skip
    return trl.DPOTrainer(model, args=config, train_dataset=preferences(), processing_class=tokenizer(), **given)


def test_dpo_with_a_reference_model(tmp_path: Path) -> None:
    trainer = dpo(causal("gated_linear"), tmp_path, ref_model=causal("gated_linear"))
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: the model is the reference
    assert found[1] < found[0]


def test_dpo_takes_the_reference_from_the_folder_of_the_model(tmp_path: Path) -> None:
    causal("gated_linear").save_pretrained(tmp_path / "model")
    trainer = dpo(SubquadraticForCausalLM.from_pretrained(tmp_path / "model"), tmp_path)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
