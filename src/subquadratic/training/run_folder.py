"""A run on disk.

| file                                | content                                                                       |
|-------------------------------------|-------------------------------------------------------------------------------|
| `README.md`, `loss.svg`             | how the run was made and how to use it, and its curves                        |
| `config.json`, `model.safetensors`  | the best model so far by its validation loss, as `save_pretrained` writes it  |
| `modeling_subquadratic.py`          | a line with which transformers opens it                                       |
| `tokenizer.json`                    | its tokenizer, unless it reads bytes; of integers and numbers, `values.json`  |
| `run.yaml`                          | every option of the run, as resolved; `subq train --config` takes it as it is |
| `run.json`                          | the data and its digest, versions, sizes, and at the end the result           |
| `metrics.jsonl`                     | one line per measurement, written as it is made                               |
| `samples.txt`                       | what the model wrote as it learned                                            |
| `checkpoints/`                      | what `--resume` needs                                                         |
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..heads.files import replace_file
from .options import TrainOptions
from .outputs import check_folder, named
from .replacing import FILES, check_replaceable, is_page, remove_run

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOGS = ("metrics.jsonl", "samples.txt")  # grow line by line; a run that goes on cuts off what came after its checkpoint


class RunFolder:
    """The folder of one run; `open` or `reopen` it before the first measurement. With `writes=False` nothing is written,
    as on all processes but the first."""

    def __init__(self, path: Path, *, writes: bool = True, numbered: bool = False) -> None:
        self.path, self.writes, self.numbered = path, writes, numbered

    @classmethod
    def choose(cls, out: str | None, *, model: str, overwrite: bool, writes: bool = True) -> RunFolder:
        """The folder that `out` names, or the first free `runs/MODEL-N`. Nothing is written yet.

        Raises:
            ValueError: `out` is empty or a file, a folder with something in it and `overwrite` is false or something would be lost that
                no run made, or it cannot be written.
        """
        path = first_free(f"runs/{model}") if out is None else named("out", out)
        check_folder("out", path)
        check_replaceable(path, overwrite=overwrite)
        return cls(path, writes=writes, numbered=out is None)

    @contextlib.contextmanager
    def made(self, *, overwrite: bool) -> Iterator[None]:
        """The folder made and claimed; looked for again where somebody else took it since it was chosen. One that was made here
        and stays empty is taken away again.

        Raises:
            ValueError: it cannot be made, or another process writes there.
        """
        if not self.writes:
            yield
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self.numbered:
                try:
                    self.path.mkdir()
                    break
                except FileExistsError:
                    self.path = first_free(str(self.path).rpartition("-")[0])
            made = self.numbered or not self.path.is_dir()
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"out: cannot write {self.path}: {error.strerror or error}") from error
        try:
            with self.claimed():
                check_replaceable(self.path, overwrite=overwrite)
                yield
        finally:
            with contextlib.suppress(OSError):
                if made:
                    self.path.rmdir()  # refuses what is not empty

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within it, no other process that asks may write to the folder; the system forgets the claim of one that was killed.

        Raises:
            ValueError: another process has it.
        """
        if not self.writes or fcntl is None:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ValueError(f"out: another process is training in {self.path}; wait for its end, or name another folder") from None
        except OSError:  # a file system without claims
            pass
        try:
            yield
        finally:
            os.close(handle)

    def write_options(self, options: TrainOptions) -> None:
        """`run.yaml`, without what says where the run is and how it is shown."""
        if self.writes:
            given = {**dataclasses.asdict(options), "out": None, "overwrite": False, "resume": None, "quiet": False, "json": False}
            self._write("run.yaml", _to_yaml(given))

    def open(self, options: TrainOptions, facts: dict[str, Any]) -> None:
        """Drop what an earlier run left there (and nothing else), write options and facts.

        Raises:
            ValueError: the folder cannot be written.
        """
        if not self.writes:
            return
        try:
            self._sweep()
            remove_run(self.path)
            self.write_options(options)
            self.write_facts(facts)
        except OSError as error:
            raise ValueError(f"out: cannot write {self.path}: {error.strerror or error}; no run is left there") from error

    def sizes(self) -> dict[str, int]:
        """How long the logs are now."""
        return {name: (self.path / name).stat().st_size if (self.path / name).exists() else 0 for name in LOGS}

    def reopen(self, sizes: dict[str, int]) -> None:
        """Cut the logs back to what they were at a checkpoint."""
        if self.writes:
            self._sweep()
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

    def note_best(self, best: dict[str, Any]) -> None:
        """Keep in `run.json` which step the model in the folder is of, and its loss."""
        self.write_facts({**self.read_facts(), "best": best})

    def noted_best(self) -> dict[str, Any] | None:
        """What was noted last."""
        found = self.read_facts().get("best")
        return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None

    def result(self) -> dict[str, Any] | None:
        """What came out, once there is something; of an interrupted run, when it was interrupted."""
        found = self.read_facts().get("result")
        return found if isinstance(found, dict) else None

    def finished(self) -> bool:
        """Whether the run came to its end."""
        result = self.result()
        return result is not None and not result.get("interrupted", True)

    def write_text(self, name: str, text: str) -> None:
        """A file of the run, whole or not at all."""
        if self.writes:
            self._write(name, text)

    def write_page(self, text: str) -> None:
        """The `README.md`; one that somebody else wrote there meanwhile gives way to no page: ours is `README-run.md` then."""
        page = self.path / "README.md"
        self.write_text("README-run.md" if page.exists() and not is_page(page) else "README.md", text)

    def measure(self, **values: Any) -> None:
        """Append one line to `metrics.jsonl`; it is on disk when this returns."""
        self._append("metrics.jsonl", json.dumps(values) + "\n")

    def measurements(self) -> list[dict[str, Any]]:
        """Every line of `metrics.jsonl`, but for one that a full disk cut off.

        Raises:
            ValueError: a line is none of a run.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        found = []
        for number, line in enumerate(lines):
            try:
                found.append(json.loads(line))
                found[-1]["step"]
            except (ValueError, TypeError, KeyError) as error:
                if line.endswith("}") or number + 1 < len(lines):
                    raise ValueError(f"{path} is damaged (line {number + 1}): put it back, or delete it to continue without it") from error
        return found

    def validations(self) -> int:
        """How many there were, that of the untrained model not among them."""
        return sum(1 for line in self.measurements() if "validation_loss" in line and line["step"] > 0)

    def add_sample(self, step: int, sample: str) -> None:
        """Append to `samples.txt`."""
        self._append("samples.txt", f"===== step {step:,}\n{sample}\n")

    def _append(self, name: str, text: str) -> None:
        if self.writes:
            with (self.path / name).open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)

    def _write(self, name: str, text: str) -> None:
        replace_file(self.path / name, lambda file: file.write_text(text, encoding="utf-8"))

    def _sweep(self) -> None:
        """Delete what a killed process left half-written (see `replace_file`)."""
        pattern = re.compile(rf"\.(?:{'|'.join(map(re.escape, FILES))})\.[a-z0-9_]{{4,8}}")  # not an editor's .README.md.swp
        for file in self.path.iterdir():
            if pattern.fullmatch(file.name):
                file.unlink(missing_ok=True)


def first_free(start: str) -> Path:
    """The first of `start-1`, `start-2` ... that is not there."""
    number = 1
    while (path := Path(f"{start}-{number}")).exists():
        number += 1
    return path


def _to_yaml(options: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
