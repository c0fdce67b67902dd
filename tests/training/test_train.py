"""Whole runs, small: each model, each kind of problem, the run folder, and what ends a run early."""

import errno
import importlib.util
import io
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.shards import split_weights
from transformers import TrainerCallback

from subquadratic import LanguageModel, SequenceClassifier
from subquadratic.heads.encoder_decoder import EncoderDecoder
from subquadratic.training import DEFAULTS, MODELS, TrainOptions
from subquadratic.training import run as run_module
from subquadratic.training.callbacks import Signals, TrainingError
from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.configuration import backbone_config
from subquadratic.training.display import PlainDisplay
from subquadratic.training.entry import prepare, train
from subquadratic.training.resolving import resolve
from subquadratic.training.run_folder import RunFolder


def validation_tokens(out: Path) -> int:
    return json.loads((out / "run.json").read_text())["corpus"]["validation_tokens"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_as_a_next_token_model(model: str, run: Any, tmp_path: Path) -> None:
    result = run(tmp_path / "run", model=model)
    assert result.steps == 3
    assert 0 <= result.score.accuracy <= 1
    assert result.score.predicted == validation_tokens(tmp_path / "run") - 1, "every token but the first"
    assert "⟫" in result.sample
    loaded = LanguageModel.from_pretrained(tmp_path / "run")
    assert loaded.config.model_type == model
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("model", [model for model in MODELS if not DEFAULTS[model].causal_only])
def test_the_models_that_can_train_as_masked_models(model: str, run: Any, tmp_path: Path, measurements: Any) -> None:
    result = run(tmp_path / "run", model=model, causal=False)
    assert "[filled in]" in result.sample
    assert measurements(tmp_path / "run")[-1]["validation_accuracy"] == result.score.accuracy
    assert result.score.predicted == validation_tokens(tmp_path / "run") - 1, "every token but the first"


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_say_what_the_configurations_say(model: str) -> None:
    config = backbone_config(resolve(TrainOptions(model=model)))
    assert config.causal_only == DEFAULTS[model].causal_only
    assert config.build() is not None


def test_defaults_make_way_for_what_is_given() -> None:
    one_head = backbone_config(resolve(TrainOptions(heads=1)))
    assert one_head.to_dict()["local_heads"] == 0
    efficient = backbone_config(resolve(TrainOptions(fields={"kernel": "efficient"})))
    assert efficient.to_dict()["features"] is None


def test_the_loss_falls_and_validation_follows(run: Any, tmp_path: Path, measurements: Any) -> None:
    result = run(tmp_path / "run", model="transformer", dim=32, max_steps=60, learning_rate=8e-3, evaluations=2)
    lines = measurements(tmp_path / "run")
    assert result.score.bits_per_byte < 4 < lines[0]["validation_bits_per_byte"]
    assert [line["step"] for line in lines if "validation_bits_per_byte" in line] == [0, 20, 40, 60, 60]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [1, 10, 20, 30, 40, 50, 60]
    assert logged[-1]["tokens"] == 60 * 2 * 32
    assert set(logged[-1]) >= {"seconds", "bits", "learning_rate", "gradient_norm", "tokens_per_second"}
    assert (tmp_path / "run" / "samples.txt").read_text().count("===== step") == 3


def test_the_run_folder_says_what_was_done_and_can_be_done_again(run: Any, drawn: None, tmp_path: Path) -> None:
    first = run(tmp_path / "first", seed=3)
    facts = json.loads((tmp_path / "first" / "run.json").read_text())
    assert len(facts["corpus"]["digest"]) == 64
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["result"]["validation_bits_per_byte"] == first.score.bits_per_byte
    page = (tmp_path / "first" / "README.md").read_text()
    assert facts["corpus"]["digest"] in page
    assert "\nsubq generate ." in page  # relative to the page, wherever the folder is moved
    assert str(tmp_path / "first") not in page.partition("From anywhere:")[0]
    assert (tmp_path / "first" / "loss.svg").read_text().rstrip().endswith("</svg>")
    options = yaml.safe_load((tmp_path / "first" / "run.yaml").read_text())
    assert None not in {options[name] for name in ("dim", "depth", "heads", "context", "causal", "learning_rate", "batch_size")}
    second = train(TrainOptions(**{**options, "out": str(tmp_path / "second")}), PlainDisplay(io.StringIO()))
    assert second is not None
    assert second.score.bits_per_byte == first.score.bits_per_byte
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_a_full_folder_is_kept_unless_told_otherwise(run: Any, tmp_path: Path, measurements: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="--overwrite"):
        run(tmp_path / "run")
    for _ in range(2):
        run(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert [line["step"] for line in measurements(tmp_path / "run")].count(0) == 1


def test_runs_are_numbered(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        options = TrainOptions(model="transformer", data=str(text), dim=16, depth=1, heads=2, context=32, max_steps=1, evaluations=0)
        result = train(options, PlainDisplay(io.StringIO()))
        assert result is not None
        assert result.folder.path == Path("runs") / f"transformer-{number}"


def test_accumulated_batches_give_the_step_of_one_large_batch(run: Any, tmp_path: Path, measurements: Any) -> None:
    whole = run(tmp_path / "whole", batch_size=4, max_steps=2, precision="float32")
    parts = run(tmp_path / "parts", batch_size=1, accumulation=4, max_steps=2, precision="float32")
    first = [next(line for line in measurements(tmp_path / name) if "loss" in line) for name in ("whole", "parts")]
    assert first[0]["gradient_norm"] == pytest.approx(first[1]["gradient_norm"], rel=1e-4)
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_features_are_redrawn_every_interval_from_seed_and_step(run: Any, tmp_path: Path) -> None:
    models = [run(tmp_path / str(i), fields={"redraw_interval": 2}, max_steps=steps).model for i, steps in enumerate((1, 3, 2))]
    (name,) = [name for name, _ in models[0].named_buffers() if name.endswith("projection")]
    after_one, after_three, after_two = (dict(model.named_buffers())[name] for model in models)
    assert not torch.equal(after_one, after_three)
    assert torch.equal(after_three, after_two)


def test_how_often_a_run_is_measured_does_not_change_it(run: Any, tmp_path: Path) -> None:
    options = {"max_steps": 12, "fields": {"dropout": 0.2}}
    seldom = run(tmp_path / "seldom", **options)
    often = run(tmp_path / "often", evaluations=5, save_every=3, **options)
    last = [torch.load(Checkpoints(r.folder.path).place(12) / "optimizer.pt", weights_only=True)["state"] for r in (seldom, often)]
    assert all(torch.equal(last[0][i]["exp_avg"], last[1][i]["exp_avg"]) for i in last[0])


def test_the_average_is_what_is_saved(run: Any, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", max_steps=20)
    averaged = run(tmp_path / "averaged", max_steps=20, ema=0.5)
    newest = Checkpoints(tmp_path / "averaged").newest()
    assert newest is not None
    last, whole = LanguageModel.from_pretrained(newest), plain.model
    assert torch.equal(last.embedding.table.weight, whole.embedding.table.weight), "training itself is as without an average"
    assert not torch.equal(averaged.model.embedding.table.weight, whole.embedding.table.weight)


def test_the_best_model_is_kept_and_patience_ends_the_run(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.0, 1.0, 1.5, 1.2, 1.1, 0.5])
    measure = run_module.Run._measure

    def worsening(self: Any, step: int, **options: Any) -> Any:
        score = measure(self, step, **options)
        return type(score)(**{**score.__dict__, "loss": next(losses)})

    monkeypatch.setattr(run_module.Run, "_measure", worsening)
    result = run(tmp_path / "run", max_steps=70, evaluations=6, patience=2, keep=9)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert (facts["steps"], facts["best_step"]) == (40, 20)
    best = LanguageModel.from_pretrained(Checkpoints(tmp_path / "run").place(20))
    assert torch.equal(best.embedding.table.weight, result.model.embedding.table.weight)


def test_checkpoints_are_retained(run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run", max_steps=12, save_every=2, keep=3)
    assert Checkpoints(tmp_path / "run").steps() == [8, 10, 12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_its_work_saved(
    number: signal.Signals, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                os.kill(os.getpid(), number)

    add = run_module.Run._add_callbacks
    monkeypatch.setattr(run_module.Run, "_add_callbacks", lambda self, *given: [add(self, *given), self.trainer.add_callback(Interrupt())])
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, this one is ignored
    try:
        result = run(tmp_path / "run", max_steps=1000)
        assert (result.steps, result.signal) == (5, number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["interrupted"] is True
    LanguageModel.from_pretrained(tmp_path / "run")


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_budget_ends_the_run(run: Any, tmp_path: Path, measurements: Any) -> None:
    result = run(tmp_path / "run", max_steps=None, budget="3s")
    assert result.steps >= 1
    rates = [line["learning_rate"] for line in measurements(tmp_path / "run") if "loss" in line]
    assert rates[-1] < max(rates)


def test_a_loss_that_is_not_a_number_names_the_step_and_keeps_what_was_good(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, calls = LanguageModel.loss, iter(range(1000))
    monkeypatch.setattr(LanguageModel, "loss", lambda self, tokens: good(self, tokens) * (math.nan if next(calls) == 16 else 1.0))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 17; the model of step 10 is kept in .* the checkpoint of step 15"):
        run(tmp_path / "run", max_steps=30, evaluations=2, save_every=5)
    saved = LanguageModel.from_pretrained(tmp_path / "run")
    assert all(parameter.isfinite().all() for parameter in saved.parameters())


def test_a_gradient_that_is_not_a_number_is_told_before_anything_is_saved(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, calls = LanguageModel.loss, iter(range(1000))

    class Break(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * math.nan

    monkeypatch.setattr(LanguageModel, "loss", lambda self, tokens: (Break.apply if next(calls) == 4 else lambda x: x)(good(self, tokens)))
    with pytest.raises(TrainingError, match=r"gradient's norm is nan .* at step 5"):
        run(tmp_path / "run", max_steps=10, save_every=1)
    assert Checkpoints(tmp_path / "run").steps() == [4]


def test_a_full_disk_is_told_with_what_was_kept(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Checkpoints.complete

    def full(self: Checkpoints, step: int) -> None:
        if step > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        complete(self, step)

    monkeypatch.setattr(Checkpoints, "complete", full)
    with pytest.raises(TrainingError, match=r"no space left to write .* the checkpoint of step 5 \(subq train --resume"):
        run(tmp_path / "run", max_steps=20, save_every=5)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_folder_that_is_gone_is_told(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_milestone", "_keep_best"):
        with monkeypatch.context() as patch:
            before, out = getattr(run_module.Run, name), tmp_path / "run"
            patch.setattr(run_module.Run, name, lambda self, *given, before=before, out=out: [shutil.rmtree(out), before(self, *given)][1])
            with pytest.raises(TrainingError, match=r"out: the folder .*run is gone"):
                run(tmp_path / "run", max_steps=20, evaluations=1)
        assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_folder(run: Any, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run")
    with RunFolder(tmp_path / "run").claimed():
        for options in ({"overwrite": True}, {"resume": str(tmp_path / "run")}):
            with pytest.raises(ValueError, match=r"another process is training in .*run"):
                run(tmp_path / "run", **options)
    assert LanguageModel.from_pretrained(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    first, second = (RunFolder.choose(None, model="performer", overwrite=False) for _ in range(2))
    assert first.path == second.path
    with first.made(overwrite=False), second.made(overwrite=False):
        assert (first.path.name, second.path.name) == ("performer-1", "performer-2")
    assert list((tmp_path / "runs").iterdir()) == [], "nothing was written"


def test_a_dry_run_writes_nothing(run: Any, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()
    options = {"data": str(text), "model": "transformer", "dim": 16, "depth": 2, "heads": 2, "context": 32, "max_steps": 100}
    assert train(TrainOptions(dry_run=True, **options), PlainDisplay(stream)) is None
    assert list(tmp_path.iterdir()) == [text]
    said = stream.getvalue()
    built = prepare(resolve(TrainOptions(**options)))[1].build()
    assert f"{sum(p.numel() for p in built.parameters()):>12,}  in all" in said
    assert "about 100 steps" in said
    assert "backbone.stack.blocks.*.attention" in said
    assert "(2 of them)" in said


def test_rates_are_tried_and_one_is_suggested(run: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "lr", find_lr=True, model="transformer", dim=32) is None
    found = json.loads((tmp_path / "lr" / "find_lr.json").read_text())
    assert 1e-5 < found["suggested"] < 0.5
    assert found["rates"] == sorted(found["rates"])
    assert not (tmp_path / "lr" / "model.safetensors").exists()
    assert (tmp_path / "lr" / "find_lr.svg").is_file()


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(run: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training needs more than [\d,.]+ TB, but [\d,.]+ GB are available: give a smaller"):
        run(tmp_path / "run", model="transformer", dim=65536, heads=64, depth=200)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [{"depth": 10**8}, {"fields": {"features": 2**31 - 1}}, {"fields": {"ff_mult": 2**31 - 1}}])
def test_sizes_that_would_take_hours_to_count_are_refused_at_once(size: dict[str, Any], run: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: training needs more than .* are available"):
        run(tmp_path / "run", **size)
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_told_with_what_was_kept(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, calls = LanguageModel.loss, iter(range(1000))

    def hungry(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        return good(self, tokens) if next(calls) < 12 else torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(LanguageModel, "loss", hungry)
    kept = "no model is saved there, and the checkpoint of step 10"
    with pytest.raises(TrainingError, match=rf"out of memory.*; {kept} .*smaller --batch_size"):
        run(tmp_path / "run", max_steps=20, save_every=5)


def test_weights_of_another_run_are_a_start(run: Any, tmp_path: Path, measurements: Any) -> None:
    first = run(tmp_path / "first", max_steps=30)
    second = run(tmp_path / "second", weights=str(tmp_path / "first"))
    assert measurements(tmp_path / "second")[0]["validation_loss"] == pytest.approx(first.score.loss, rel=1e-5)
    assert second.steps == 3
    with pytest.raises(ValueError, match=r"weights: the model in .* has config.dim=16, the one asked for 32"):
        run(tmp_path / "third", weights=str(tmp_path / "first"), dim=32)
    split_weights(tmp_path / "first")
    third = run(tmp_path / "third", weights=str(tmp_path / "first"))
    assert third.score.loss == second.score.loss


def test_trackers_get_what_is_measured(run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run", report_to="tensorboard", evaluations=1)
    events = list((tmp_path / "run" / "tracking").rglob("events.out.tfevents.*"))
    assert events
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(events[0]))
    reader.Reload()
    assert {"train/loss", "train/learning_rate"} <= set(reader.Tags()["scalars"])


def test_a_task_is_filled_in(run: Any, tmp_path: Path) -> None:
    result = run(tmp_path / "run", task="dyck", model="transformer", context=64, causal=False)
    assert result.score.predicted > 0


@pytest.mark.parametrize("task", ["copy", "mirror", "recall", "dyck", "variables"])
def test_language_tasks_train(task: str, run: Any, tmp_path: Path) -> None:
    result = run(tmp_path / "run", task=task, model="transformer", context=64)
    assert "[scored, and what the model says]" in result.sample
    assert result.score.bits_per_byte is None
    assert result.score.predicted > 0


def test_a_task_is_learned(run: Any, tmp_path: Path) -> None:
    options = {"model": "transformer", "dim": 32, "heads": 2, "depth": 2, "context": 16, "batch_size": 32, "fields": {"token_shift": True}}
    result = run(tmp_path / "run", task="copy", max_steps=250, learning_rate=5e-3, validation_tokens=3000, **options)
    assert result.score.accuracy > 0.8


def test_a_classifier_of_rows_trains(run: Any, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    rows = [f"{['good', 'fine', 'great'][i % 3] if i % 2 else ['bad', 'poor', 'awful'][i % 3]} number {i},{i % 2}" for i in range(200)]
    table.write_text("review,stars\n" + "\n".join(rows) + "\n")
    options = {"data": str(table), "text": "review", "label": "stars", "context": None, "batch_size": 16}
    result = run(tmp_path / "run", model="transformer", dim=32, max_steps=60, learning_rate=3e-3, **options)
    assert result.score.accuracy > 0.9
    loaded = SequenceClassifier.from_pretrained(tmp_path / "run")
    assert loaded.labels == ("0", "1") and loaded.num_classes == 2
    assert not loaded.config.causal
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["labels"]  # as versions before wrote it
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    run(tmp_path / "further", model="transformer", dim=32, weights=str(tmp_path / "run"), **options)


def test_a_task_with_classes_trains(run: Any, tmp_path: Path) -> None:
    result = run(tmp_path / "run", task="listops", model="fastformer", context=64)
    assert result.model.num_classes == 10


def test_an_encoder_decoder_of_pairs_trains(run: Any, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    words = ["red fox", "blue bird", "old cat", "wet dog"]
    pairs.write_text("".join(json.dumps({"a": f"{w} {i}", "b": w.upper()}) + "\n" for i in range(40) for w in words))
    options = {"data": str(pairs), "text": "a", "target": "b", "context": None, "batch_size": 8, "model": "transformer"}
    result = run(tmp_path / "run", **options)
    assert "[target]" in result.sample
    assert isinstance(EncoderDecoder.from_pretrained(tmp_path / "run"), EncoderDecoder)
    for model, part in (("feedback_transformer", "encoder"), ("fastformer", "decoder")):
        with pytest.raises(ValueError, match=f"model: {model} cannot be the {part}"):
            run(tmp_path / "other", **{**options, "model": model})
    assert not (tmp_path / "other").exists()


def test_bad_input_leaves_no_folder(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: None if name == "wandb" else find(name))
    for options, message in (
        ({"context": 5000}, "less than one window"),
        ({"heads": 3}, "dim must be divisible by heads"),
        ({"fields": {"kernal": "relu"}}, "did you mean 'kernel'"),
        ({"task": "coppy"}, r"task must be one of copy.*did you mean copy\?"),
        ({"data": ""}, "data"),
        ({"task": "copy", "label": "x"}, "label is not for --task"),
        ({"label": "x", "target": "y"}, "leave out one of the two"),
        ({"report_to": "nowhere"}, "report_to must be of tensorboard"),
        ({"report_to": "wandb"}, "report_to: wandb is not installed: pip install wandb"),
        ({"ema": 1.5}, "ema must be above 0"),
        ({"dim": 10**10}, "model: training needs more than"),
        ({"batch_size": 10**9}, "training needs about .* give a smaller"),
        ({"accumulation": 10**6}, r"accumulation: 1,000,000 batches of 2 are more than the [\d,]+ items of the training data"),
        ({"weights": str(tmp_path)}, "weights: .* is not a saved model"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
