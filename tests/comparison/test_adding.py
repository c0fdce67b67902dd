"""Models that are added are prepared as the others are, and one that was left out may be tried again."""

from pathlib import Path

import pytest

from subquadratic.comparison.adding import added, forget
from subquadratic.comparison.comparing import Comparing
from subquadratic.comparison.conditions import steps_of
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.results import Comparison, Entry, Rate, Trial, load
from subquadratic.comparison.run import run
from subquadratic.comparison.trials import search_rates

from .conftest import STEPS, Maker

FLAKY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 32)
        self.head = nn.Linear(32, vocab_size)

    def forward(self, tokens):
        if {broken} and self.training:
            raise ArithmeticError("max_steps and all that")
        return self.head(self.embedding(tokens))

def build(vocab_size): return Net(vocab_size)
"""


def conditions(equal: str) -> Comparison:
    entries = [Entry(name="one", source="ours", flops_per_token=3e6), Entry(name="two", source="ours", flops_per_token=1e6)]
    limits = {"run_steps": {"one": 100}, "rate_steps": {"one": 8}}
    return Comparison(settings={"equal": equal, "conditions": limits}, machine={}, data={}, unit="", entries=entries)


def test_what_is_added_gets_as_many_tokens_or_operations() -> None:
    for equal, run_steps, rate_steps in (("tokens", 100, 8), ("flops", 300, 24)):
        comparison = conditions(equal)
        assert steps_of(comparison, comparison.entry("two")) == run_steps
        assert steps_of(comparison, comparison.entry("two"), "rate") == rate_steps


@pytest.mark.parametrize("equal", ["tokens", pytest.param("flops", marks=pytest.mark.slow)])
def test_its_learning_rates_are_searched_too(comparing: Maker, tmp_path: Path, equal: str) -> None:
    run(comparing("performer", equal=equal, seeds=1, rates=2, speeds=True))
    kept = load(tmp_path / "out")
    options = added(CompareOptions(**kept.settings["options"]), "gated_linear", kept)
    after = run(comparing(options.models, comparison=kept, equal=equal, seeds=1, rates=2, speeds=True))
    entry = after.entry("gated_linear")
    assert entry.skipped == "" and [rate.error for rate in entry.rates] == ["", ""] and entry.rate is not None
    assert [trial.status for trial in after.trials] == ["done", "done"]
    if equal == "tokens":
        assert after.trials[1].steps == STEPS
    assert {speed.entry for speed in after.speeds} == {"performer", "gated_linear"}, "measured anew, side by side"


def test_a_mistake_is_not_told_as_a_loss_that_diverged(comparing: Maker, tmp_path: Path) -> None:
    file = tmp_path / "flaky.py"
    file.write_text(FLAKY.format(broken=True))
    made = comparing("performer", model=f"{file}:build", seeds=1, process=True)
    entry = made.comparison.entry("flaky:build")
    entry.parameters, entry.options = 100, made.foreign["flaky:build"].spec()
    made.comparison.settings["default_rates"] = {entry.name: 1e-3}
    made.ask("reading", "facts")
    search_rates(made, entry)
    made.workers.close()
    assert entry.skipped == "failed in training: ArithmeticError: max_steps and all that"
    assert len(entry.rates) == 1 and "diverged" not in made.display.inner.stream.getvalue()  # type: ignore[attr-defined]


def test_one_that_was_left_out_is_tried_again(comparing: Maker, tmp_path: Path) -> None:
    file = tmp_path / "flaky.py"
    file.write_text("def build(vocab_size): raise RuntimeError('not yet')")
    run(comparing("performer", model=f"{file}:build", seeds=1, rates=1))
    kept = load(tmp_path / "out")
    assert "not yet" in kept.entry("flaky:build").skipped
    file.write_text(FLAKY.format(broken=False))
    options = added(CompareOptions(**kept.settings["options"]), f"{file}:build", kept)
    options.check()
    forget(kept, f"{file}:build", tmp_path / "out")
    after = run(comparing("performer", comparison=kept, model=options.model, seeds=1, rates=1))
    assert [entry.name for entry in after.entries] == ["performer", "flaky:build"]
    assert [trial.status for trial in after.trials] == ["done", "done"]
    with pytest.raises(ValueError, match="flaky:build is in the comparison already, with 1 finished run;"):
        added(options, f"{file}:build", after)


def test_one_whose_runs_failed_is_tried_again(tmp_path: Path) -> None:
    entry = Entry(name="performer", source="ours", parameters=3, rates=[Rate(rate=1.0, score=1.0, steps=1, seconds=1.0)], rate=1.0)
    kept = conditions("tokens")
    kept.entries.append(entry)
    kept.trials = [Trial(entry="performer", seed=0, status="failed", error="its process was killed")]
    options = CompareOptions(models="performer,linformer")
    assert added(options, "performer", kept) == options
    forget(kept, "performer", tmp_path)
    assert kept.trials == [] and kept.entry("performer") == Entry(name="performer", source="ours")


def test_names_hold_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FLAKY)
    monkeypatch.chdir(tmp_path)
    options = added(CompareOptions(models="none", model="mine.py:other"), "mine.py:build,performer", conditions("tokens"))
    assert options.models == "performer" and options.model == f"mine.py:other,{tmp_path}/mine.py:build"


@pytest.mark.slow
def test_the_time_left_is_that_of_what_is_missing(comparing: Maker, tmp_path: Path) -> None:
    """Also with an added model, when the budget of the first time is used up."""
    run(comparing("performer", seeds=1, rates=1, speeds=True))
    kept = load(tmp_path / "out")
    kept.seconds = 3600.0
    made = Comparing(CompareOptions(**kept.settings["options"]), None, comparing().display, comparison=kept)
    made.expect()
    assert made.left() == 0.0
    kept.entries.append(Entry(name="gated_linear", source="ours"))
    made.expect(takes=5.0)
    first = made.left()
    assert first > kept.settings["conditions"]["speed_seconds"] + 10
    made._since -= 1000.0
    assert made.left() == pytest.approx(first - 5.0, abs=0.1), "what takes longer than expected leaves the others their time"
