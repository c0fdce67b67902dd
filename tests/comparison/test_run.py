"""A comparison from beginning to end, interrupted, failing, and added to."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from subquadratic.comparison.adding import added
from subquadratic.comparison.contestants import contestant, problem_of
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.preparing import prepare as prepare_comparison
from subquadratic.comparison.results import NAME, load
from subquadratic.comparison.run import run
from subquadratic.comparison.tasks import Session
from subquadratic.training import TrainOptions
from subquadratic.training.entry import prepare

from .conftest import STEPS, Maker

FAILING = """
import os, signal
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, vocab_size)
        self.calls = 0

    def forward(self, tokens):
        self.calls += 1
        return self.embedding(tokens)

class Dying(Net):
    def forward(self, tokens):
        if self.training and self.calls > 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(tokens)

class Raising(Net):
    def forward(self, tokens):
        if self.training and self.calls > 14:
            raise ArithmeticError("odd number of tokens")
        return super().forward(tokens)

def fine(vocab_size): return Net(vocab_size)
def dying(vocab_size): return Dying(vocab_size)
def raising(vocab_size): return Raising(vocab_size)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FAILING)
    return path


def test_what_is_kept_is_what_was_measured(comparing: Maker, tmp_path: Path) -> None:
    made = comparing(speeds=True)
    comparison = run(made)
    again = load(tmp_path / "out")
    assert again == comparison and not again.interrupted and again.unit == "bits/byte"
    assert [(trial.entry, trial.seed) for trial in again.trials] == [
        ("performer", 0), ("transformer", 0), ("performer", 1), ("transformer", 1),
    ]  # fmt: skip
    for entry in again.entries:
        assert abs(entry.parameters / 20_000 - 1) <= 0.02 and entry.flops_per_token > 0
        assert len(entry.rates) == 2 and entry.rate in [rate.rate for rate in entry.rates]
    for trial in again.trials:
        assert trial.status == "done" and trial.steps == STEPS and trial.value is not None and 0 < trial.value < 9
        assert trial.tokens == STEPS * again.settings["tokens_per_step"]
        assert [point.step for point in trial.curve] == sorted({point.step for point in trial.curve}) and trial.curve[0].step == 0
        assert (tmp_path / "out" / trial.folder / "model.safetensors").is_file()
    assert len({trial.predicted for trial in again.trials}) == 1, "all are scored on the same tokens"
    assert len({trial.value for trial in again.trials}) == 4


def test_equal_time(comparing: Maker) -> None:
    comparison = run(comparing("performer,feedback_transformer", equal="time", seeds=1))
    for trial in comparison.trials:
        # A step that other work interrupts may take a second; a run that nothing ends takes minutes.
        assert 0.25 <= trial.seconds <= 1.3 + 3 * trial.seconds / max(trial.steps, 1)


def test_all_see_the_same_windows_in_the_same_order(text: Path) -> None:
    """The Trainer draws the order from the seed alone, whatever the model has drawn for its weights."""
    from subquadratic.core.schedule import Schedule
    from subquadratic.training.checkpoints import Checkpoints
    from subquadratic.training.hugging_face import SubquadraticTrainer

    seen = {}
    for name in ("performer", "linformer"):
        options = CompareOptions(data=str(text), length=32)
        entry = contestant(options, name, None)
        _, stated = prepare(entry.options)
        problem = problem_of(entry, _data_of(entry.options), sample_items=1)
        torch.manual_seed(7)
        model = problem.build()
        wanted = dataclasses.replace(entry.options, seed=7, max_steps=3)
        schedule = Schedule(max_steps=3, seconds=None, warmup=0.0)
        places = {"checkpoints": Checkpoints(text.parent), "output_dir": str(text.parent)}
        trainer = SubquadraticTrainer(problem, model, wanted, schedule=schedule, **places)  # type: ignore[arg-type]
        seen[name] = [batch["tokens"] for _, batch in zip(range(3), trainer.get_train_dataloader(), strict=False)]
        assert stated.digest == problem.digest
    for first, second in zip(*seen.values(), strict=True):
        assert torch.equal(first, second)


def _data_of(options: TrainOptions) -> object:
    from subquadratic.training.entry import read_data

    return read_data(options)[1]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Interrupts, also where the tests are a script's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_killed_and_gone_on_with(comparing: Maker, tmp_path: Path) -> None:
    whole = run(comparing(folder="whole"))
    made = comparing(process=True)
    worker = made.workers

    def kill() -> None:
        """The worker's own process, as the system would, again and again; then Ctrl-C."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(trial.status == "done" for trial in made.comparison.trials):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(made)
    thread.join()
    assert worker._process is None
    kept = load(tmp_path / "out")
    assert kept.interrupted and any(trial.status == "done" for trial in kept.trials)
    done = run(comparing(comparison=kept))
    assert [trial.status for trial in done.trials] == ["done"] * 4
    assert [trial.value for trial in done.trials] == [trial.value for trial in whole.trials]


@pytest.mark.slow
def test_a_failing_model_is_reported_and_loses_nothing(comparing: Maker, file: Path) -> None:
    models = f"{file}:dying,{file}:raising,{file}:fine"
    comparison = run(comparing("performer", process=True, model=models, seeds=2, rates=1, limits={"run_steps": dict.fromkeys(
        ("performer", "nets:dying", "nets:raising", "nets:fine"), 30
    )}))  # fmt: skip
    by_name = {name: [trial for trial in comparison.trials if trial.entry == name] for name in ("nets:dying", "nets:raising", "nets:fine")}
    assert [trial.status for trial in by_name["nets:fine"]] == ["done", "done"]
    assert by_name["nets:dying"][0].error == "its process was killed, probably by the system for want of memory"
    assert by_name["nets:dying"][1].error == "not run: seed 0 ended without a result"
    assert by_name["nets:raising"][0].error == "ArithmeticError: odd number of tokens"
    assert len(comparison.done("performer")) == 2
    assert comparison.entry("performer").parameters == pytest.approx(20_000, rel=0.02)


def test_models_are_made_as_large_as_a_foreign_one(comparing: Maker, file: Path) -> None:
    made = comparing("transformer", model=f"{file}:fine", parameters=None)
    prepare_comparison(made)
    made.workers.close()
    own, other = made.comparison.entry("transformer"), made.comparison.entry("nets:fine")
    assert other.parameters == 260**2 and own.parameters == pytest.approx(260**2, rel=0.02)


def test_a_model_that_does_not_suit_the_data_is_left_out(comparing: Maker) -> None:
    made = comparing("performer,perceiver_ar", causal=False, seeds=1, rates=1)
    comparison = run(made)
    assert "causal" in comparison.entry("perceiver_ar").skipped and comparison.entry("performer").skipped == ""
    assert [trial.entry for trial in comparison.trials] == ["performer"]


def test_a_model_is_added(comparing: Maker, tmp_path: Path) -> None:
    before = run(comparing("performer", seeds=1, rates=1))
    value = before.trials[0].value
    kept = load(tmp_path / "out")
    options = added(CompareOptions(**kept.settings["options"]), "gated_linear", kept)
    made = comparing(options.models, comparison=kept, seeds=1, rates=1)
    after = run(made)
    assert [(trial.entry, trial.value is not None) for trial in after.trials] == [("performer", True), ("gated_linear", True)]
    assert after.trials[0].value == value and after.trials[1].steps == STEPS


def test_rows_with_labels(comparing: Maker, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,kind\n" + "".join(f"{'ab' * (i % 5 + 2)},even\n{'xy' * (i % 4 + 2)},odd\n" for i in range(40)))
    comparison = run(comparing("performer,fastformer", data=str(rows), label="kind", seeds=1, rates=1))
    assert comparison.unit == "accuracy" and comparison.data["kind"] == "classification"
    assert all(0 <= (trial.value or 0) <= 1 and trial.status == "done" for trial in comparison.trials)


def test_pairs(comparing: Maker, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"text": "{"ab" * (i % 5 + 1)}", "other": "{"ba" * (i % 5 + 1)}"}}\n' for i in range(80)))
    comparison = run(comparing("performer,perceiver_ar", data=str(pairs), target="other", parameters="60k", seeds=1, rates=1))
    assert comparison.unit == "bits/token" and comparison.trials[0].status == "done"
    assert "encoder" in comparison.entry("perceiver_ar").skipped


def test_other_data_are_refused_when_going_on(comparing: Maker, text: Path, tmp_path: Path) -> None:
    run(comparing("performer", seeds=1, rates=1))
    kept = load(tmp_path / "out" / NAME)
    text.write_text("something else entirely, " * 500)
    with pytest.raises(ValueError, match="the data have changed"):
        run(comparing("performer", comparison=kept, seeds=1, rates=1))


def test_the_reader_of_data_says_what_is_wrong(comparing: Maker, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(ValueError, match="less than one window"):
        run(comparing("performer", data=str(short)))


def test_a_session_measures_what_it_says(text: Path) -> None:
    session = Session(CompareOptions(data=str(text), length=32, threads=1), lambda **values: None)
    found = session.probe("performer", None, 30_000)
    assert abs(found["parameters"] / 30_000 - 1) <= 0.02 and found["step_seconds"] > 0 and found["memory_bytes"] > 4 * 30_000 * 4
