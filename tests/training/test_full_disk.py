"""A full disk, at every place that writes: the message says what is there, and it is there."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subquadratic import LanguageModel
from subquadratic.data import load_tokenizer
from subquadratic.heads import saving
from subquadratic.training import TrainOptions
from subquadratic.training import run as run_module
from subquadratic.training.callbacks import TrainingError
from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.entry import train
from subquadratic.training.run_folder import RunFolder

OPTIONS = {"max_steps": 20, "evaluations": 1, "save_every": 5}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for the first calls, then a full disk."""
    calls = iter(range(count))
    return lambda *given, **more: function(*given, **more) if next(calls, None) is not None else full()


PLACES: dict[str, Callable[[pytest.MonkeyPatch, int], None]] = {
    "weights": lambda patch, count: patch.setattr(saving, "write_tensors", after(count, saving.write_tensors)),
    "checkpoint": lambda patch, count: patch.setattr(Checkpoints, "complete", after(count, Checkpoints.complete)),
    "progress": lambda patch, count: patch.setattr(run_module, "write_progress", after(count, run_module.write_progress)),
    "metrics and samples": lambda patch, count: patch.setattr(RunFolder, "_append", after(2 * count, RunFolder._append)),
    "plot": lambda patch, count: patch.setattr(run_module, "plot_run", after(0, run_module.plot_run)),
    "page": lambda patch, count: patch.setattr(RunFolder, "write_page", after(0, RunFolder.write_page)),
    "facts": lambda patch, count: patch.setattr(RunFolder, "write_facts", after(count + 1, RunFolder.write_facts)),
}


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_said_to_be_kept_is_there(place: str, count: int, run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        PLACES[place](patch, count)
        try:
            run(out, **OPTIONS)
            return  # it wrote less often than that
        except TrainingError as error:
            said = str(error)
    assert "no space left to write" in said
    model = re.search(r"the model of step (\d+) is kept", said)
    assert (model is not None) == (out / "model.safetensors").exists() and ("no model is saved there" in said) == (model is None)
    if model is not None:
        LanguageModel.from_pretrained(out)
    checkpoint = re.search(r"the checkpoint of step (\d+)", said)
    assert [int(checkpoint[1])] == Checkpoints(out).steps() if checkpoint else Checkpoints(out).steps() == []
    assert not [path for path in out.rglob(".*") if path.is_file()], "nothing half-written is left"
    result = train(TrainOptions(resume=str(out)))
    assert result is not None and result.steps == 20


def test_a_model_is_not_kept_without_its_tokenizer(run: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.data.finding import find_source
    from subquadratic.data.tokenizers.text import TextTokenizer
    from subquadratic.data.tokenizers.training import train_tokenizer

    tokenizer, _ = train_tokenizer(find_source(str(text)), vocab_size=280)
    tokenizer.save(tmp_path / "tokenizer")
    monkeypatch.setattr(TextTokenizer, "save", full)
    with pytest.raises(TrainingError, match="no model is saved there"):
        run(tmp_path / "run", tokenizer=str(tmp_path / "tokenizer"), context=16)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert load_tokenizer(tmp_path / "tokenizer").vocab_size == 280


def test_the_best_model_before_stays_the_best(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = run_module.Run._keep_best
    weights = []

    def second_fails(self: Any, score: Any, step: int) -> None:
        if step > 10:
            monkeypatch.setattr(saving, "write_tensors", full)
        keep(self, score, step)
        weights.append((tmp_path / "run" / "model.safetensors").read_bytes())

    monkeypatch.setattr(run_module.Run, "_keep_best", second_fails)
    with pytest.raises(TrainingError, match=r"the model of step 10 is kept in .*, and the checkpoint of step 20"):
        run(tmp_path / "run", max_steps=20, evaluations=1)
    assert [(tmp_path / "run" / "model.safetensors").read_bytes()] == weights
