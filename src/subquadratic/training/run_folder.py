"""A run on disk.

| file                                | content                                                                       |
|-------------------------------------|-------------------------------------------------------------------------------|
| `README.md`, `loss.svg`             | how the run was made and how to use it, and its curves                        |
| `config.json`, `model.safetensors`  | the best model so far by its validation loss, as `save_pretrained` writes it  |
| `tokenizer.json`                    | its tokenizer, unless it reads bytes                                          |
| `run.yaml`                          | every option of the run, as resolved; `subq train --config` takes it as it is |
| `run.json`                          | the data and its digest, versions, sizes, and at the end the result           |
| `metrics.jsonl`                     | one line per measurement, written as it is made                               |
| `samples.txt`                       | what the model wrote as it learned                                            |
| `checkpoints/`                      | what `--resume` needs                                                         |
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..models.saving import replace_file

MODEL = ("config.json", "model.safetensors", "tokenizer.json")
FILES = (*MODEL, "run.yaml", "run.json", "metrics.jsonl", "samples.txt", "loss.svg", "README.md")
FOLDERS = ("checkpoints", "tracking")
LOGS = ("metrics.jsonl", "samples.txt")  # grow line by line; a run that goes on cuts off what came after its checkpoint


class RunFolder:
    """The folder of one run; `open` or `reopen` it before the first measurement. With `writes=False` nothing is written,
    as on all processes but the first."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    @classmethod
    def choose(cls, out: str | None, *, model: str, overwrite: bool) -> RunFolder:
        """The folder that `out` names, or the first free `runs/MODEL-N`. Nothing is written yet.

        Raises:
            ValueError: `out` is a file, or a folder with something in it and `overwrite` is false, or cannot be written.
        """
        if out is None:
            number = 1
            while (path := Path("runs") / f"{model}-{number}").exists():
                number += 1
        else:
            path = Path(out).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError(f"out: {path} is a file; name a folder")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            more = ", or --resume to go on with the run in it" if (path / "checkpoints").is_dir() else ""
            raise ValueError(f"out: {path} is not empty; name another folder, or give --overwrite to replace the run in it{more}")
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not os.access(parent, os.W_OK):
            raise ValueError(f"out: cannot write {path}: {parent} is read-only; name another folder")
        return cls(path)

    def open(self, options: dict[str, Any], facts: dict[str, Any]) -> None:
        """Create the folder, drop what an earlier run left there (and nothing else), write options and facts.

        Raises:
            ValueError: the folder cannot be written.
        """
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            self._write("run.yaml", _to_yaml(options))
            self.write_facts(facts)
        except OSError as error:
            raise ValueError(f"out: cannot write {self.path}: {error.strerror or error}") from error

    def sizes(self) -> dict[str, int]:
        """How long the logs are now."""
        return {name: (self.path / name).stat().st_size if (self.path / name).exists() else 0 for name in LOGS}

    def reopen(self, sizes: dict[str, int]) -> None:
        """Cut the logs back to what they were at a checkpoint."""
        for name in LOGS:
            path = self.path / name
            if self.writes and path.exists() and path.stat().st_size > sizes.get(name, 0):
                os.truncate(path, sizes.get(name, 0))

    def write_facts(self, facts: dict[str, Any]) -> None:
        if self.writes:
            self._write("run.json", json.dumps(facts, indent=2) + "\n")

    def read_facts(self) -> dict[str, Any]:
        """What `run.json` holds; empty where there is none, or it is damaged."""
        try:
            found = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_text(self, name: str, text: str) -> None:
        """A file of the run, whole or not at all."""
        if self.writes:
            self._write(name, text)

    def measure(self, **values: Any) -> None:
        """Append one line to `metrics.jsonl`; it is on disk when this returns."""
        self._append("metrics.jsonl", json.dumps(values) + "\n")

    def measurements(self) -> list[dict[str, Any]]:
        """Every line of `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def add_sample(self, step: int, sample: str) -> None:
        """Append to `samples.txt`."""
        self._append("samples.txt", f"===== step {step:,}\n{sample}\n")

    def _append(self, name: str, text: str) -> None:
        if self.writes:
            with (self.path / name).open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)

    def _write(self, name: str, text: str) -> None:
        replace_file(self.path / name, lambda file: file.write_text(text, encoding="utf-8"))


def _to_yaml(options: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
