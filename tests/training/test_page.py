"""What the page of a run says is true: of the files there, and in the folder wherever it is."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subquadratic.cli.main import main


def commands(page: str) -> list[list[str]]:
    block = re.search(r"```console\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


def named_files(page: str) -> set[str]:
    return set(re.findall(r"`([\w-]+\.(?:yaml|json|jsonl|txt|svg|md))`", page)) | set(re.findall(r"\]\(([^)]+)\)", page))


def printed(page: str, before: Path, now: Path) -> str:
    """What the Python lines of a page print, with the folder's new place in them."""
    block = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None and f'Path("{before.as_posix()}")' in block[1]
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(block[1].replace(before.as_posix(), now.as_posix()), {})
    return stream.getvalue().strip()


OTHER_KINDS = ["genome", "integers", "masked integers", "numbers", "changes"]


@pytest.mark.parametrize("kind", ["text", "masked", "task", "masked task", "classes of a task", "rows", "pairs", *OTHER_KINDS])
def test_every_file_is_there_and_every_command_works_where_the_folder_is(
    kind: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{'good' if i % 2 else 'bad'} day {i},{i % 2}\n" for i in range(60)))
    (tmp_path / "pairs.csv").write_text("text,target\n" + "".join(f"day {i},night {i}\n" for i in range(60)))
    (tmp_path / "genome.fa").write_text(">one\n" + "ACGTTGCA\n" * 100)
    np.save(tmp_path / "integers.npy", np.arange(1000) % 7)
    np.save(tmp_path / "numbers.npy", np.sin(np.arange(1000)))
    options: dict[str, dict[str, Any]] = {
        "text": {},
        "masked": {"causal": False, "model": "fastformer"},
        "task": {"task": "copy", "model": "transformer"},
        "masked task": {"task": "recall", "model": "transformer", "causal": False, "task_options": {"pairs": 4}},
        "classes of a task": {"task": "listops", "model": "transformer", "task_options": {"depth": 2}},
        "pairs": {"data": str(tmp_path / "pairs.csv"), "target": "target", "context": None, "model": "transformer"},
        "rows": {"data": str(tmp_path / "rows.csv"), "label": "label", "context": None, "model": "transformer"},
        "genome": {"data": str(tmp_path / "genome.fa"), "headers": False},
        "integers": {"data": str(tmp_path / "integers.npy"), "tokens": 7},
        "masked integers": {"data": str(tmp_path / "integers.npy"), "tokens": 7, "causal": False, "model": "fastformer"},
        "numbers": {"data": str(tmp_path / "numbers.npy"), "bins": 16},
        "changes": {"data": str(tmp_path / "numbers.npy"), "bins": 16, "difference": True},
    }
    run(tmp_path / "run", **options[kind])
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    page = Path("README.md").read_text()
    if kind in ("rows", "pairs"):
        Path("new_rows.csv").write_text("text\na good day\na bad day\n")
    names = named_files(page)
    assert {"run.yaml", "metrics.jsonl", "loss.svg"} <= names and all(Path(name).is_file() for name in names)
    assert ("samples.txt" in names) == (kind not in ("rows", "classes of a task")) == Path("samples.txt").exists()
    for name in ("context", "width, depth, heads", "machine", "computes", "versions", "date"):
        assert re.search(rf"^\| {name} \| .*\w.* \|$", page, flags=re.MULTILINE), name
    assert kind != "genome" or "generate_text(model, load_tokenizer(folder), 'ACGTTGCA'" in page
    monkeypatch.chdir(tmp_path)
    assert printed(page, tmp_path / "run", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    for command in commands(page):
        assert main(command) == 0, command
    assert Path("../another_run/model.safetensors").is_file()
