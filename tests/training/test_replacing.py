"""`--overwrite` replaces a run, and nothing that no run made; nothing is written among what is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.replacing import check_replaceable, holds_run, remove_run
from subquadratic.training.run_folder import RunFolder

FOREIGN = {"README.md": "# my project\n", "config.json": "{}", "checkpoints/mine.pt": "weights", "run.yaml": "model: gpt\ndata: x\n"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("name", [*FOREIGN, "tokenizer.json", "tracking/notes.txt", "model.safetensors", "samples.txt", "checkpoints"])
def test_a_folder_without_a_run_keeps_its_files(name: str, run: Any, tmp_path: Path) -> None:
    write(tmp_path / "project", {name: FOREIGN.get(name, "mine")})
    before = contents(tmp_path / "project")
    with pytest.raises(ValueError, match="holds no run"):
        run(tmp_path / "project", overwrite=True)
    assert contents(tmp_path / "project") == before


def test_only_what_a_run_makes_is_removed(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, report_to="tensorboard")
    assert holds_run(out)
    mine = {"notes.txt": "a", "checkpoints/mine.pt": "b", "tracking/plot.txt": "c", ".README.md.swp": "d", "checkpoints/deep/step-1": "e"}
    write(out, mine)
    remove_run(out)
    assert contents(out) == {name: text.encode() for name, text in mine.items()}


KEPT = (
    "checkpoints/step-00000003-good/model.safetensors", "checkpoints/step-00000003-good/notes.txt", "checkpoints/step-3/model.safetensors",
    "checkpoints/.step-notes/n.txt", "checkpoints/.step-00000009/n.txt", "checkpoints/step-00000003/n.txt", "tracking/n.txt",
    "checkpoints/step-00000003/checkpoint-1/optimizer.pt", "checkpoints/step-000000003/config.json",
    "tracking/subquadratic-notes/n.txt", "tracking/events.out.tfevents.mine", ".hidden",
)  # fmt: skip
EMPTY = ("checkpoints/none", "tracking/none", "samples")


def test_what_the_user_keeps_beside_checkpoints_stays(run: Any, tmp_path: Path) -> None:
    """A copy of a checkpoint, notes in one and beside them: through --overwrite, and through the deletion of old checkpoints."""
    out = tmp_path / "run"
    run(out, save_every=1, report_to="tensorboard")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    write(out, dict.fromkeys(KEPT, "mine"))
    for name in EMPTY:
        (out / name).mkdir()
    run(out, save_every=1, overwrite=True, max_steps=4)
    assert not [name for name in KEPT if not (out / name).is_file() or (out / name).read_text() != "mine"]
    assert not [name for name in EMPTY if not (out / name).is_dir()]
    assert Checkpoints(out).steps() == [4]
    assert sorted(path.name for path in (out / "checkpoints" / "step-00000003").iterdir()) == ["checkpoint-1", "n.txt"]
    assert not list((out / "tracking").glob("events.out.tfevents.[0-9]*"))


def test_a_checkpoint_is_completed_around_what_the_user_keeps(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    final, staged = checkpoints.place(5), checkpoints.staging(5)
    write(final, {"notes.txt": "mine", "optimizer.pt": "old", "average.safetensors": "old"})
    write(staged, {"optimizer.pt": "new", "progress.json": "new"})
    checkpoints.complete(5)
    assert contents(final) == {"notes.txt": b"mine", "optimizer.pt": b"new", "progress.json": b"new"}
    assert not staged.exists()
    write(tmp_path / "disk" / "step", {"optimizer.pt": "elsewhere"})
    checkpoints.place(4).symlink_to(tmp_path / "disk" / "step")
    checkpoints.retain(1)
    assert contents(tmp_path / "disk") == {"step/optimizer.pt": b"elsewhere"}
    write(checkpoints.staging(6) / "checkpoint-6", {"optimizer.pt": "half", ".model.safetensors.abc_1234": "half"})
    checkpoints.sweep()
    assert not checkpoints.staging(6).exists()


def test_an_empty_folder_of_the_users_is_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        with pytest.raises(RuntimeError), RunFolder(tmp_path / name).made(overwrite=False):
            raise RuntimeError
    assert (tmp_path / "empty").is_dir() and not (tmp_path / "new").exists()


def test_a_run_is_replaced_and_a_page_of_the_users_own_is_not(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, seed=1)
    run(out, seed=2, overwrite=True)
    assert "seed: 2" in (out / "run.yaml").read_text()
    (out / "README.md").write_text("# what I found\n")
    before = contents(out)
    with pytest.raises(ValueError, match=r"README\.md was not made by the run"):
        run(out, seed=3, overwrite=True)
    assert contents(out) == before
    folder = RunFolder(out)
    folder.write_page("A performer, trained with subquadratic. The run is finished.")
    assert (out / "README.md").read_text() == "# what I found\n"
    assert (out / "README-run.md").exists()


def test_without_overwrite_nothing_is_touched_and_the_way_out_is_said(run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run")
    write(tmp_path / "project", {"notes.txt": "mine"})
    with pytest.raises(ValueError, match="--resume to continue"):
        check_replaceable(tmp_path / "run", overwrite=False)
    with pytest.raises(ValueError, match="it holds none"):
        check_replaceable(tmp_path / "project", overwrite=False)


@pytest.mark.parametrize("option", ["out", "data", "tokenizer", "weights", "resume"])
@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_an_empty_name_is_refused(option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.training import TrainOptions
    from subquadratic.training.entry import train

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{option}: "):
        train(TrainOptions(**{option: name}))
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_run_is_not_read_by_the_next_one(run: Any, tmp_path: Path) -> None:
    """Runs in a folder of texts are passed over; a pattern would match their samples."""
    notes = tmp_path / "notes"
    write(notes, {"a.txt": "some words " * 500, "b.txt": "other words " * 500})
    for name in ("runs/first", "runs/second"):
        run(notes / name, data=str(notes))
    first, second = (json.loads((notes / name / "run.json").read_text())["corpus"] for name in ("runs/first", "runs/second"))
    assert first["digest"] == second["digest"]
    assert second["passed_over"] == {"run": {"count": 1, "first": ["runs/first"]}}
    with pytest.raises(ValueError, match="is inside the data"):
        run(notes / "run", data=str(notes / "**" / "*.txt"))


@pytest.mark.parametrize("option", ["data", "weights"])
def test_what_overwrite_would_delete_is_not_read(option: str, run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = contents(tmp_path / "run")
    value = tmp_path / "run" / "samples.txt" if option == "data" else tmp_path / "run"
    with pytest.raises(ValueError, match=rf"^{option}: .* --overwrite would delete"):
        run(tmp_path / "run", overwrite=True, **{option: str(value)})
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("place", ["text.txt/run", "x" * 300, "/proc/nothing/run", "link"])
def test_what_cannot_be_written_is_told_before_the_work(place: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.training import entry

    (tmp_path / "link").symlink_to(tmp_path / "missing")
    monkeypatch.setattr(entry, "prepare", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(ValueError, match=r"^out: "):
        run(tmp_path / place)
