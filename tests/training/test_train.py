"""Whole runs, small: each model, each objective, the run folder, and what ends a run early."""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import TrainerCallback

from subquadratic import LanguageModel
from subquadratic.training import MODELS, TrainOptions
from subquadratic.training import train as train_module
from subquadratic.training.callbacks import TrainingError
from subquadratic.training.display import PlainDisplay
from subquadratic.training.setup import make_model
from subquadratic.training.train import TrainResult, train

SMALL = {"dim": 16, "depth": 1, "heads": 2, "context": 32, "batch_size": 2, "evaluations": 0, "max_steps": 3}
FIELDS = {"performer": {"features": 8, "local_heads": 1, "local_window": 8}, "perceiver_ar": {"latents": 16}, "linformer": {"slots": 4}}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 100)
    return path


def run(text: Path, out: Path, **options: Any) -> TrainResult:
    settings = {**SMALL, **options}
    settings.setdefault("fields", FIELDS.get(settings.get("model", "performer"), {}))
    return train(TrainOptions(data=str(text), out=str(out), **settings), PlainDisplay(io.StringIO()))


def measurements(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_as_a_next_token_model(model: str, text: Path, tmp_path: Path) -> None:
    result = run(text, tmp_path / "run", model=model)
    assert result.steps == 3
    assert result.score.accuracy is None
    assert result.sample.startswith("def ")
    loaded = LanguageModel.from_pretrained(tmp_path / "run")
    assert loaded.config.model_type == model
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("model", [model for model in MODELS if model not in ("feedback_transformer", "perceiver_ar")])
def test_the_models_that_can_train_as_masked_models(model: str, text: Path, tmp_path: Path) -> None:
    result = run(text, tmp_path / "run", model=model, causal=False)
    assert result.score.accuracy is not None
    assert "[filled in]" in result.sample
    assert measurements(tmp_path / "run")[-1]["validation_accuracy"] == result.score.accuracy


def test_the_loss_falls_and_validation_follows(text: Path, tmp_path: Path) -> None:
    result = run(text, tmp_path / "run", model="transformer", dim=32, max_steps=60, evaluations=2)
    lines = measurements(tmp_path / "run")
    assert result.score.bits < 4 < lines[0]["validation_bits_per_byte"]
    assert [line["step"] for line in lines if "validation_bits_per_byte" in line] == [0, 20, 40, 60]
    logged = [line for line in lines if "loss" in line]
    assert logged[-1]["tokens"] == 60 * 2 * 32
    assert set(logged[-1]) >= {"seconds", "bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second"}


def test_the_run_folder_says_what_was_done_and_can_be_done_again(text: Path, tmp_path: Path) -> None:
    first = run(text, tmp_path / "first", seed=3)
    facts = json.loads((tmp_path / "first" / "run.json").read_text())
    assert len(facts["corpus"]["digest"]) == 64
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["result"]["validation_bits_per_byte"] == first.score.bits
    options = yaml.safe_load((tmp_path / "first" / "run.yaml").read_text())
    assert None not in {options[name] for name in ("dim", "depth", "heads", "context", "causal", "learning_rate", "batch_size")}
    second = train(TrainOptions(**{**options, "out": str(tmp_path / "second")}), PlainDisplay(io.StringIO()))
    assert second.score.bits == first.score.bits
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_a_full_folder_is_kept_unless_told_otherwise(text: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="--overwrite"):
        run(text, tmp_path / "run")
    for _ in range(2):
        run(text, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert [line["step"] for line in measurements(tmp_path / "run")].count(0) == 1


def test_runs_are_numbered(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = train(TrainOptions(data=str(text), fields=FIELDS["performer"], **SMALL), PlainDisplay(io.StringIO()))
        assert result.folder.path == Path("runs") / f"performer-{number}"


def test_accumulated_batches_give_the_step_of_one_large_batch(text: Path, tmp_path: Path) -> None:
    whole = run(text, tmp_path / "whole", batch_size=4, max_steps=2)
    parts = run(text, tmp_path / "parts", batch_size=1, accumulation=4, max_steps=2)
    norms = [[line["gradient_norm"] for line in measurements(tmp_path / name) if "loss" in line] for name in ("whole", "parts")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_features_are_redrawn_every_interval_from_seed_and_step(text: Path, tmp_path: Path) -> None:
    fields = {**FIELDS["performer"], "redraw_interval": 2}
    untouched = make_model(TrainOptions(fields=fields, **SMALL).resolve())
    (name,) = [name for name, _ in untouched.named_buffers() if name.endswith("projection")]
    models = [run(text, tmp_path / str(i), fields=fields, max_steps=steps).model for i, steps in enumerate((1, 3, 2))]
    before, after_one, after_three, after_two = (dict(model.named_buffers())[name] for model in (untouched, *models))
    assert torch.equal(before, after_one)
    assert not torch.equal(before, after_three)
    assert torch.equal(after_three, after_two)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_its_work_saved(
    number: signal.Signals, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                os.kill(os.getpid(), number)

    callbacks = train_module._Run._callbacks
    monkeypatch.setattr(train_module._Run, "_callbacks", lambda *arguments: [Interrupt(), *callbacks(*arguments)])
    handler = signal.getsignal(number)
    result = run(text, tmp_path / "run", max_steps=1000)
    assert (result.steps, result.signal) == (5, number)
    assert signal.getsignal(number) is handler
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["interrupted"] is True
    LanguageModel.from_pretrained(tmp_path / "run")


def test_a_budget_ends_the_run(text: Path, tmp_path: Path) -> None:
    result = run(text, tmp_path / "run", max_steps=None, budget="3s")
    assert result.steps >= 1
    rates = [line["learning_rate"] for line in measurements(tmp_path / "run") if "loss" in line]
    assert rates[-1] < max(rates)


def test_a_loss_that_is_not_a_number_is_an_error_and_is_not_saved(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "loss", lambda self, tokens: self.embedding.table.weight.sum() * float("nan"))
    monkeypatch.setattr(train_module._Run, "_measure", lambda self, step: None)
    with pytest.raises(TrainingError, match="smaller --learning_rate"):
        run(text, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_bad_input_leaves_no_folder(text: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"context": 5000}, "less than one window"),
        ({"heads": 3}, "dim must be divisible by heads"),
        ({"fields": {"kernal": "relu"}}, "did you mean 'kernel'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(text, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
