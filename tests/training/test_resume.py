"""A run that was stopped and goes on ends as if it had never stopped, bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from subquadratic import LanguageModel
from subquadratic.cli.main import main
from subquadratic.training import TrainOptions
from subquadratic.training import run as run_module
from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.entry import train
from subquadratic.training.problems.language import OFFSETS

LONG = {"max_steps": 40, "evaluations": 2, "save_every": 7, "keep": 2}


class Crash(BaseException):
    """As if the process had been killed: nothing catches it."""


class At(TrainerCallback):
    """Does something at the beginning of the step after `step`."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()


def crash() -> None:
    raise Crash


def stopping(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    add = run_module.Run._add_callbacks

    def more(self: Any, trainer: Any, signals: Any) -> None:
        add(self, trainer, signals)
        trainer.add_callback(At(step, action))

    monkeypatch.setattr(run_module.Run, "_add_callbacks", more)


def assert_same_run(first: Path, second: Path, step: int) -> None:
    assert (first / "samples.txt").exists() == (second / "samples.txt").exists()  # a classifier has none
    for name in ("model.safetensors", "samples.txt") if (first / "samples.txt").exists() else ("model.safetensors",):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    ours, theirs = (Checkpoints(folder).place(step) for folder in (first, second))
    weights = [load_file(folder / "model.safetensors") for folder in (ours, theirs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    moments = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (ours, theirs)]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in moments[0][i])
    assert lines(first) == lines(second)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second")} for line in found]


CASES: dict[str, dict[str, Any]] = {
    "everything random": {"fields": {"dropout": 0.2, "redraw_interval": 3}, "accumulation": 3, "ema": 0.9},
    "masked": {"causal": False, "model": "fastformer", "fields": {"dropout": 0.1}},
    "task": {"task": "copy", "model": "transformer", "schedule": "constant"},
    "rows": {"label": "class", "model": "fastformer", "context": None, "fields": {"dropout": 0.1}},
    "pairs": {"target": "answer", "model": "linformer", "context": None},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for this file, and beside it the runs that are made once."""
    path = tmp_path_factory.mktemp("resume") / "text.txt"
    path.write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 100)
    return path


@pytest.fixture(scope="module")
def options_of(text: Path) -> Callable[[str], dict[str, Any]]:
    """The options of a case, with `rows.jsonl` for those that read rows."""
    rows = [{"text": f"{'good' if i % 2 else 'bad'} day {i}", "class": i % 2, "answer": f"{i} yad"} for i in range(100)]
    (path := text.with_name("rows.jsonl")).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda case: {**LONG, **CASES[case], **({"data": str(path)} if case in ("rows", "pairs") else {})}


@pytest.fixture(scope="module")
def whole(trained_on: Any, text: Path) -> Callable[..., Path]:
    """The folder of a run that nothing stopped, by a name and its options."""

    def whole(name: str, **options: Any) -> Path:
        if not (folder := text.with_name(name)).exists():
            trained_on(text)(folder, **options)
        return folder

    return whole


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["signal", "crash"])
def test_a_stopped_run_goes_on_bit_for_bit(
    how: str, case: str, run: Any, whole: Any, options_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(case)
    with monkeypatch.context() as patch:
        if how == "signal":
            stopping(patch, 17, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert run(tmp_path / "parts", **options).signal == signal.SIGTERM
        else:
            stopping(patch, 25, crash)
            with pytest.raises(Crash):
                run(tmp_path / "parts", **options)
    result = train(TrainOptions(resume=str(tmp_path / "parts")))
    assert result is not None
    assert result.steps == 40
    assert_same_run(whole(case, **options), tmp_path / "parts", 40)


def test_stopped_at_the_end_of_an_epoch_and_in_the_first_step(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"max_steps": 20, "fields": {"dropout": 0.2}, "batch_size": 128}
    whole = run(tmp_path / "whole", **options)
    windows = (whole.folder.read_facts()["corpus"]["train_tokens"] - 32) // (32 // OFFSETS) + 1
    steps_in_epoch = -(-windows // options["batch_size"])
    assert 3 < steps_in_epoch < 17, "the run must pass the end of an epoch"
    for step in (0, 1, steps_in_epoch, steps_in_epoch + 1):
        out = tmp_path / f"at-{step}"
        with monkeypatch.context() as patch:
            stopping(patch, step, crash)
            with pytest.raises(Crash):
                run(out, **options, save_every=max(step, 1))
        assert train(TrainOptions(resume=str(out))) is not None
        assert_same_run(tmp_path / "whole", out, 20)


def test_killed_in_the_middle_of_writing_a_checkpoint(run: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        complete = Checkpoints.complete
        patch.setattr(Checkpoints, "complete", lambda self, step: crash() if step >= 20 else complete(self, step))
        with pytest.raises(Crash):
            run(tmp_path / "parts", **LONG)
    assert any(path.name.startswith(".") for path in (tmp_path / "parts" / "checkpoints").iterdir())
    train(TrainOptions(resume=str(tmp_path / "parts")))
    assert_same_run(whole("plain", **LONG), tmp_path / "parts", 40)
    assert not any(path.name.startswith(".") for path in (tmp_path / "parts" / "checkpoints").iterdir())


def test_a_killed_process_goes_on_from_the_command_line(text: Path, tmp_path: Path) -> None:
    options = ["--data", str(text), "--model", "transformer", "--dim", "16", "--depth", "1", "--heads", "2", "--context", "32"]
    options += ["--max_steps", "200", "--evaluations", "1", "--quiet"]
    command = [sys.executable, "-m", "subquadratic", "train", *options, "--save_every", "5", "--out", str(tmp_path / "parts")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoints = Checkpoints(tmp_path / "parts")
    while not checkpoints.steps() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run must be killed before its end"
    assert main(["train", "--resume", str(tmp_path / "parts"), "--save_every", "100", "--quiet"]) == 0
    assert main(["train", *options, "--out", str(tmp_path / "whole")]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 200)


@pytest.fixture(scope="module")
def stopped_once(trained_on: Any, text: Path) -> Path:
    folder = text.with_name("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stopping(patch, 17, crash)
        with pytest.raises(Crash):
            trained_on(text)(folder, **LONG)
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A run that was stopped after step 17 of 40."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


@pytest.mark.parametrize(
    ("change", "key"),
    [({"learning_rate": 0.1}, "learning_rate"), ({"max_steps": 50}, "max_steps"), ({"fields": {"features": 9}}, "fields.features")],
)
def test_a_changed_option_is_named(change: dict[str, Any], key: str, stopped: Path, text: Path, run: Any) -> None:
    before = sorted(path.name for path in stopped.rglob("*"))
    with pytest.raises(ValueError, match=f"resume: {key} was .* and is now"):
        run(stopped, resume=str(stopped), **{**LONG, **change})
    assert sorted(path.name for path in stopped.rglob("*")) == before


def test_what_does_not_touch_the_result_may_change(stopped: Path, run: Any) -> None:
    assert run(stopped, resume=str(stopped), **{**LONG, "keep": 5, "save_every": 11}).steps == 40
    assert len(Checkpoints(stopped).steps()) > 2


def test_a_changed_text_is_told(stopped: Path, text: Path) -> None:
    before = text.read_text()
    text.write_text(before + "more")
    try:
        with pytest.raises(ValueError, match="resume: data has changed"):
            train(TrainOptions(resume=str(stopped)))
    finally:
        text.write_text(before)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"\x10\x00\x00\x00", "model.safetensors is damaged"),
        ("config.json", b"{", "is not valid JSON"),
        ("progress.json", b"{", "progress.json is damaged"),
        ("progress.json", b'{"format": 99}', "has format 99"),
        ("optimizer.pt", None, "lacks optimizer.pt"),
    ],
)
def test_a_damaged_checkpoint_is_told(file: str, content: bytes | None, message: str, stopped: Path) -> None:
    newest = Checkpoints(stopped).newest()
    assert newest is not None
    if content is None:
        (newest / file).unlink()
    else:
        (newest / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        train(TrainOptions(resume=str(stopped)))


def test_a_checkpoint_of_another_model_is_told(stopped: Path, run: Any, tmp_path: Path) -> None:
    other = run(tmp_path / "other", dim=32)
    newest = Checkpoints(stopped).newest()
    assert newest is not None
    for name in ("config.json", "model.safetensors"):
        shutil.copy(other.folder.path / name, newest / name)
    with pytest.raises(ValueError, match=r"has config\.dim=32, the one asked for 16"):
        train(TrainOptions(resume=str(stopped)))


def test_a_finished_run_is_left_alone(run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert train(TrainOptions(resume=str(tmp_path / "run"))) is None
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_without_checkpoints_is_not_replaced(stopped: Path, run: Any, tmp_path: Path) -> None:
    run(tmp_path / "finished")
    for folder in (stopped, tmp_path / "finished"):
        shutil.rmtree(folder / "checkpoints")
    assert train(TrainOptions(resume=str(tmp_path / "finished"))) is None
    (stopped / "run.json").write_text(json.dumps({**json.loads((stopped / "run.json").read_text()), "result": {"interrupted": True}}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"resume: .* has a model but no checkpoint any more: start from its model with --weights"):
        train(TrainOptions(resume=str(stopped)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_interrupted_while_it_measures_at_the_end(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**LONG, "evaluations": 3, "patience": 1}
    losses = {0: 5.0, 10: 3.0, 20: 4.0}
    measure = run_module.Run._measure
    worse = lambda self, step, **more: dataclasses.replace(measure(self, step, **more), loss=losses[step])  # noqa: E731
    monkeypatch.setattr(run_module.Run, "_measure", worse)
    run(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "spread", lambda items: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", **options)
    left = tmp_path / "parts" / ".model.safetensors.x1y2"  # as a killed process leaves it
    left.touch()
    result = train(TrainOptions(resume=str(tmp_path / "parts")))
    assert result is not None
    assert result.steps == 20, "it had lost its patience"
    assert not left.exists()
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 20)


def test_there_must_be_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        train(TrainOptions(resume="nowhere"))
    with pytest.raises(ValueError, match="holds no run"):
        train(TrainOptions(resume=str(tmp_path)))
    with pytest.raises(ValueError, match="no run in runs/"):
        train(TrainOptions(resume="true"))


def test_the_model_of_a_checkpoint_can_be_used(stopped: Path) -> None:
    newest = Checkpoints(stopped).newest()
    assert newest is not None
    assert LanguageModel.from_pretrained(newest).config.dim == 16
