"""Whatever is damaged in a checkpoint or its run is named in one line with the way out, before anything is done."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subquadratic.cli.main import main
from subquadratic.training import TrainOptions
from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.entry import train
from subquadratic.training.integrity import check_files, read_progress, write_progress

FILES = (
    "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "config.json", "progress.json",
    "average.safetensors",
)  # fmt: skip


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "missing": None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "junk": lambda data: b"junk\n",
    "a bit": flip,
    "longer": lambda data: data + b"\0",
}


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an average, killed in step 21 of 40, with checkpoints of steps 7 and 14."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "text.txt").write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 100)
    small = {"dim": 16, "depth": 1, "heads": 2, "context": 32, "batch_size": 2, "fields": {"features": 8, "local_heads": 0}}
    options = TrainOptions(
        out=str(folder / "run"), data=str(folder / "text.txt"), max_steps=40, evaluations=2, save_every=7, keep=2, ema=0.9, **small
    )
    complete = Checkpoints.complete

    def dying(self: Checkpoints, step: int) -> None:
        if step > 20:
            raise Killed
        complete(self, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "complete", dying)
        train(options)
    return folder / "run"


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def told(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("subq train: resume: ")
    return said


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_checkpoint(name: str, how: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = Checkpoints(copy).newest()
    assert newest is not None and Checkpoints(copy).steps() == [7, 14]
    damage = DAMAGE[how]
    if damage is None:
        (newest / name).unlink()
    else:
        (newest / name).write_bytes(damage((newest / name).read_bytes()))
    metrics = (copy / "metrics.jsonl").read_bytes()
    said = told(copy, capsys)
    assert name in said and f"delete {newest} to continue from step 7" in said
    assert (copy / "metrics.jsonl").read_bytes() == metrics
    shutil.rmtree(Checkpoints(copy).place(7))
    assert "there is no older one: start again with subq train --config" in told(copy, capsys)


def test_the_way_back_is_one(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = Checkpoints(copy).newest()
    assert newest is not None
    (newest / "optimizer.pt").write_bytes(b"")
    told(copy, capsys)
    shutil.rmtree(newest)
    assert main(["train", "--resume", str(copy)]) == 0


# These have no check sums, and a log may be deleted.
OF_THE_RUN = [
    (name, how)
    for name in ("run.yaml", "run.json", "metrics.jsonl", "model.safetensors", "config.json")
    for how in ("missing", "empty", "cut", "junk")
    if (name, how) != ("metrics.jsonl", "missing")
]


@pytest.mark.parametrize(("name", "how"), OF_THE_RUN)
def test_a_damaged_file_of_the_run(name: str, how: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage = DAMAGE[how]
    if damage is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(damage((copy / name).read_bytes()))
    said = told(copy, capsys)
    assert name in said and ("put it back" in said or "train one with" in said)


def test_a_log_or_a_best_model_may_be_deleted_and_it_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("metrics.jsonl", "model.safetensors", "config.json"):
        (copy / name).unlink()
    assert main(["train", "--resume", str(copy)]) == 0
    said = capsys.readouterr().out
    assert "note        metrics.jsonl is gone" in said and "the best model so far, of step 14, is gone" in said
    assert (copy / "model.safetensors").exists()


def test_checkpoints_without_check_sums_are_opened(copy: Path) -> None:
    newest = Checkpoints(copy).newest()
    assert newest is not None
    progress = json.loads((newest / "progress.json").read_text())
    for name in ("files", "crc32"):
        del progress[name]
    (newest / "progress.json").write_text(json.dumps(progress))
    check_files(newest, read_progress(newest))
    (newest / "scheduler.pt").write_text("junk\n")
    with pytest.raises(ValueError, match=r"scheduler\.pt is damaged"):
        check_files(newest, read_progress(newest))


WRONG = {
    "progress.json": {
        "step": "x", "sizes": "x", "losses": 5, "marks": [None], "best": [], "stale": 1.5, "elapsed": "0", "run_seconds": None,
        "train_seconds": [], "averaged": -1, "files": {"optimizer.pt": 5},
    },
    "trainer_state.json": {"global_step": "x", "log_history": "x", "train_batch_size": "x", "nothing": 1, "is_world_process_zero": 0},
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in WRONG.items() for key in keys])
def test_values_of_another_kind_are_named(name: str, key: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no check sums tell, as in checkpoints of versions that had none."""
    newest = Checkpoints(copy).newest()
    assert newest is not None
    progress = json.loads((newest / "progress.json").read_text())
    for listed in ("files", "crc32"):
        del progress[listed]
    (newest / "progress.json").write_text(json.dumps(progress))
    (newest / name).write_text(json.dumps({**json.loads((newest / name).read_text()), key: WRONG[name][key]}))
    said = told(copy, capsys)
    assert f"{newest / name} is damaged" in said and key in said


@pytest.mark.parametrize("line", ['["step"]', '{"step": "x"}', '{"step": 1, "validation_loss": "x"}', '{"step": 1, "loss": []}'])
def test_measurements_of_another_kind_are_named(line: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(f"{line}\n{before}")
    assert "metrics.jsonl is damaged (line 1" in told(copy, capsys)


def test_a_best_step_that_is_none_is_not_believed(copy: Path) -> None:
    facts = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**facts, "best": {}}))
    assert main(["train", "--resume", str(copy)]) == 0


def test_what_a_checkpoint_lacks_is_listed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = Checkpoints(copy).newest()
    assert newest is not None
    for name in ("progress.json", "config.json", "model.safetensors"):
        (newest / name).unlink()
    assert "lacks progress.json, config.json and model.safetensors; delete" in told(copy, capsys)


def test_as_many_processes_go_on_as_wrote(copy: Path) -> None:
    newest = Checkpoints(copy).newest()
    assert newest is not None
    with pytest.raises(ValueError, match="was written by 1 process, and now there are 2: continue with as many"):
        check_files(newest, read_progress(newest), processes=2)


def test_progress_comes_back(tmp_path: Path) -> None:
    from subquadratic.training.integrity import KEYS

    progress: dict[str, Any] = {**dict.fromkeys(KEYS), "elapsed": 0.1 + 0.2, "losses": [1e-17, float("inf")], "sizes": {"a": 1}}
    write_progress(tmp_path, progress)
    found = read_progress(tmp_path)
    assert {name: found[name] for name in KEYS} == progress
