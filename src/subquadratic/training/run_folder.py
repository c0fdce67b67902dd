"""A run on disk.

| file                                | content                                                                       |
|-------------------------------------|-------------------------------------------------------------------------------|
| `config.json`, `model.safetensors`  | the model, as `LanguageModel.save_pretrained` writes it                       |
| `run.yaml`                          | every option of the run, as resolved; `subq train --config` takes it as it is |
| `run.json`                          | the corpus and its digest, versions, sizes, and at the end the result         |
| `metrics.jsonl`                     | one line per measurement, written as it is made                               |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..models.saving import replace_file

FILES = ("config.json", "model.safetensors", "run.yaml", "run.json", "metrics.jsonl")


class RunFolder:
    """The folder of one run; `open` it before the first measurement."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def choose(cls, out: str | None, *, model: str, overwrite: bool) -> RunFolder:
        """The folder that `out` names, or the first free `runs/MODEL-N`. Nothing is written yet.

        Raises:
            ValueError: `out` is a file, or a folder with something in it and `overwrite` is false.
        """
        if out is None:
            number = 1
            while (path := Path("runs") / f"{model}-{number}").exists():
                number += 1
            return cls(path)
        path = Path(out).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError(f"out: {path} is a file; name a folder")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise ValueError(f"out: {path} is not empty; name another folder, or give --overwrite to write into it")
        return cls(path)

    def open(self, options: dict[str, Any], facts: dict[str, Any]) -> None:
        """Create the folder, drop what an earlier run left there (and nothing else), write options and facts.

        Raises:
            ValueError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            self._write("run.yaml", _to_yaml(options))
            self.write_facts(facts)
        except OSError as error:
            raise ValueError(f"out: cannot write {self.path}: {error.strerror or error}") from error

    def write_facts(self, facts: dict[str, Any]) -> None:
        self._write("run.json", json.dumps(facts, indent=2) + "\n")

    def measure(self, **values: Any) -> None:
        """Append one line to `metrics.jsonl`; it is on disk when this returns."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _write(self, name: str, text: str) -> None:
        replace_file(self.path / name, lambda file: file.write_text(text, encoding="utf-8"))


def _to_yaml(options: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
