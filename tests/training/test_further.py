"""A finished run goes on with a larger length: its learning rate warms up again, and it can be interrupted and extended again."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from subquadratic.cli.main import main
from subquadratic.core.schedule import Schedule
from subquadratic.training.display import PlainDisplay
from subquadratic.training.entry import train
from subquadratic.training.options import TrainOptions
from subquadratic.training.resume import saved_options
from subquadratic.training.run import TrainResult


def further(folder: Path, **changes: Any) -> tuple[TrainResult | None, str]:
    """The run in `folder` further, and what was said."""
    stream = io.StringIO()
    options: TrainOptions = dataclasses.replace(saved_options(folder), **changes)
    return train(options, PlainDisplay(stream)), stream.getvalue()


def test_more_steps(run: Any, tmp_path: Path, measurements: Any) -> None:
    folder = tmp_path / "run"
    run(folder, max_steps=20, warmup=0.2)
    before = measurements(folder)
    result, said = further(folder, max_steps=60)
    assert result is not None and result.steps == 60
    assert "a finished run, after step 20 to step 60; the learning rate warms up again over 20% of that, to 0.002, and falls" in said
    lines = measurements(folder)
    assert lines[: len(before)] == before  # nothing of what was measured is lost
    rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}
    assert rates[20] < 0.0005 < rates[30] and rates[60] < 0.0005  # fell, rose, fell
    assert max(rates.values()) > 0.0018
    saved, facts = yaml.safe_load((folder / "run.yaml").read_text()), json.loads((folder / "run.json").read_text())
    assert saved["max_steps"] == 60 and facts["result"]["steps"] == 60 and [e["step"] for e in facts["extended"]] == [20]
    assert "continued after step 20" in (folder / "README.md").read_text()
    again, said = further(folder, max_steps=70, learning_rate=1e-4)
    assert again is not None and again.steps == 70
    assert max(line["learning_rate"] for line in measurements(folder) if line["step"] > 60 and "learning_rate" in line) <= 1e-4


def test_more_time_alone_ends_a_run_of_steps(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, max_steps=3)
    result, said = further(folder, budget="6s")
    assert result is not None and result.steps > 3 and "to 6s in all" in said
    saved = yaml.safe_load((folder / "run.yaml").read_text())
    assert (saved["max_steps"], saved["budget"]) == (None, "6s")


def test_one_that_is_stopped_again_goes_on_with_its_new_schedule(run: Any, tmp_path: Path, measurements: Any, monkeypatch: Any) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        run(folder, max_steps=10)
    further(whole, max_steps=40)

    from subquadratic.training.callbacks import Milestones

    usual = Milestones.on_step_end

    def stopping(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        usual(self, args, state, control, **kwargs)
        if state.global_step == 25:
            control.should_training_stop = True
        if state.global_step > 25:
            raise RuntimeError("killed")

    monkeypatch.setattr(Milestones, "on_step_end", stopping)
    monkeypatch.setattr("subquadratic.training.run.Run.finish", lambda *arguments: None)
    further(cut, max_steps=40)
    monkeypatch.undo()
    result, said = further(cut)
    assert result is not None and result.steps == 40 and "after step 25" in said
    kept = [{line["step"]: line[name] for line in measurements(folder) if name in line} for folder in (whole, cut) for name in ("loss",)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 3}, "complete"),
        ({"max_steps": 2}, "max_steps counts from the beginning of the run, which has taken 3: give more, got 2"),
        ({"budget": "0.001s"}, "budget counts from the beginning of the run"),
        ({"max_steps": 9, "dim": 32}, "resume: dim was 16 and is now 32"),
        ({"learning_rate": 1e-4}, "resume: learning_rate was 0.002 and is now 0.0001"),
    ],
)
def test_what_makes_no_run_longer_changes_nothing(changes: dict[str, Any], message: str, run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    try:
        result, said = further(folder, **changes)
        assert result is None
    except ValueError as error:
        said = str(error)
    assert message in said
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == files


def test_from_the_command_line(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run"), "--max-steps", "5", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events][:2] == ["start", "message"] and events[-2]["event"] == "result"
    assert events[-2]["steps"] == 5 and events[-2]["folder"] == str(tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run"), "--max_steps", "6", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_second_schedule_begins_where_the_first_ended() -> None:
    schedule = Schedule(max_steps=150, seconds=None, warmup=0.1)
    schedule.first_step = 50
    assert [schedule.progress(step) for step in (40, 50, 100, 150)] == [0, 0, 0.5, 1]
    assert [schedule.factor(step) for step in (50, 59, 150)] == pytest.approx([0.1, 1, 0.01])
