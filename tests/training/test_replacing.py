"""`--overwrite` replaces a run, and nothing that no run made; nothing is written among what is read."""

from pathlib import Path
from typing import Any

import pytest

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
    with pytest.raises(ValueError, match="--resume to go on"):
        check_replaceable(tmp_path / "run", overwrite=False)
    with pytest.raises(ValueError, match="it holds none"):
        check_replaceable(tmp_path / "project", overwrite=False)


@pytest.mark.parametrize("option", ["out", "data", "tokenizer", "weights", "resume"])
@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_an_empty_name_is_refused(option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.training import TrainOptions
    from subquadratic.training.train import train

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{option}: "):
        train(TrainOptions(**{option: name}))
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_run_is_not_written_among_what_it_reads(run: Any, tmp_path: Path) -> None:
    write(tmp_path / "notes", {"a.txt": "some words " * 500, "b.txt": "other words " * 500})
    for data in (str(tmp_path / "notes"), str(tmp_path / "notes" / "**" / "*.txt")):
        with pytest.raises(ValueError, match="is inside the data"):
            run(tmp_path / "notes" / "run", data=data)
    assert sorted(contents(tmp_path / "notes")) == ["a.txt", "b.txt"]
    run(tmp_path / "notes" / ".runs" / "hidden", data=str(tmp_path / "notes"))


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
    from subquadratic.training import train as module

    (tmp_path / "link").symlink_to(tmp_path / "missing")
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(ValueError, match=r"^out: "):
        run(tmp_path / place)
