"""What a comparison found, and the file that keeps it: `results.json`.

Only what was measured is kept here; means, intervals, verdicts and pictures are computed from it (`statistics.py`, `verdict.py`,
`report/`), so that whoever has the file can compute them again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.plain_json import load_results
from ..heads.files import replace_file

FORMAT = 1
NAME = "results.json"


@dataclass(kw_only=True)
class Rate:
    """One learning rate that was tried. `score` is the mean training loss in nats per prediction over the last quarter of the trial; None
    where it diverged."""

    rate: float
    score: float | None
    steps: int
    seconds: float


@dataclass(kw_only=True)
class Entry:
    """One model that was to be compared."""

    name: str
    """Unique; of ours the model's name, else that of the file or folder."""
    source: str
    """"ours", "file" (a function in a Python file) or "transformers" (a folder with its config.json)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of ours: dim, depth, heads and fields of the configuration; else where it came from."""
    parameters: int = 0
    flops_per_token: float = 0.0
    """Of a training step, forward and backward, at the comparison's length."""
    step_seconds: float | None = None
    """Of one training step, measured before the runs."""
    memory_bytes: int | None = None
    """That training was estimated to take."""
    skipped: str = ""
    """Why it was not tried; nothing else is known of it then."""
    rates: list[Rate] = field(default_factory=list)
    rate: float | None = None
    """The learning rate that its runs had."""


@dataclass(kw_only=True)
class Point:
    """A validation during a run; `value` in the comparison's unit."""

    step: int
    tokens: int
    seconds: float
    """Of training, without validations."""
    flops: float
    value: float
    train: float | None = None
    """The training loss just before, in nats per prediction."""


@dataclass(kw_only=True)
class Span:
    """Predictions at positions from `start` up to and without `stop`, in the window; `value` in the comparison's unit."""

    start: int
    stop: int
    predicted: int
    value: float


@dataclass(kw_only=True)
class Cut:
    """The same predictions from no more than `context` tokens before each. `context` is the whole window where nothing is cut."""

    context: int
    predicted: int
    value: float


@dataclass(kw_only=True)
class Trial:
    """One training run of an entry, with one seed."""

    entry: str
    seed: int
    status: str = "waiting"
    """"waiting", "done" or "failed"."""
    error: str = ""
    folder: str = ""
    """Beside results.json."""
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    """Of training, without validations."""
    value: float | None = None
    """On the whole validation data (or as much of it as `Comparison.settings` says), in the comparison's unit."""
    loss: float | None = None
    """The same in nats per prediction."""
    accuracy: float | None = None
    predicted: int = 0
    curve: list[Point] = field(default_factory=list)
    positions: list[Span] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    sample: str = ""
    peak_bytes: int | None = None
    """Of the process that trained, at most resident (on a GPU, allocated)."""


@dataclass(kw_only=True)
class Speed:
    """One entry at one length, on one sequence; times are a number per round, and rounds are interleaved over the entries."""

    entry: str
    length: int
    train_seconds: list[float] = field(default_factory=list)
    train_bytes: int | None = None
    """Peak above the weights."""
    prefill_seconds: list[float] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)
    """Of one more token after a context of that length."""
    state_bytes: int | None = None
    note: str = ""
    """Why something is missing: "does not fit", "took too long" ..."""
    session: int = 0
    """Which measurement it belongs to: rounds are interleaved within one alone, and an entry that is added later is measured in another."""


@dataclass(kw_only=True)
class Comparison:
    """Everything that was measured.

    Args:
        settings: `options` (`options.py`, resolved); `length`, `batch_size`, `tokens_per_step`, `equal` ("time", "tokens" or "flops"),
            `seeds`, `parameters`, and `conditions`: what each run got (`conditions.py`).
        machine: of `benchmark.machine.facts()`.
        data: `name`, `text` (one line), `digest`, `kind` ("language", "classification" or "sequence_to_sequence"), `causal`,
            `tokenizer`, `train_items`, `validation_items`, `train_tokens`, `validation_tokens` (None of rows), `uniform` (a guess among
            all tokens alike, in the unit; None of accuracy), `references` (by name, in the unit: xz, most common class ...).
        unit: "bits/byte", "bits/token", "bits/value" or "accuracy"; of the last, more is better, of the others less.
        entries: in the order in which they were asked for.
        trials: of every entry that was not skipped and every seed.
        speeds: as far as they were measured.
        command: the words that repeat it.
        started, seconds: when it began, and how long it took in all, interruptions apart.
        interrupted: whether something is left to be done.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    data: dict[str, Any]
    unit: str
    entries: list[Entry] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    interrupted: bool = True

    @property
    def more_is_better(self) -> bool:
        return self.unit == "accuracy"

    def entry(self, name: str) -> Entry:
        return next(entry for entry in self.entries if entry.name == name)

    def done(self, name: str) -> list[Trial]:
        """The finished runs of an entry, by seed."""
        found = [trial for trial in self.trials if trial.entry == name and trial.status == "done"]
        return sorted(found, key=lambda trial: trial.seed)


def save(comparison: Comparison, path: Path) -> None:
    """Write the file whole or not at all."""
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(comparison)}, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def load(path: Path) -> Comparison:
    """What `save` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    return load_results(path / NAME if path.is_dir() else path, _comparison, program="subq compare", format=FORMAT)


def _comparison(content: dict[str, Any]) -> Comparison:
    entries = [Entry(**{**values, "rates": [Rate(**rate) for rate in values["rates"]]}) for values in content.pop("entries")]
    trials = [_trial(values) for values in content.pop("trials")]
    speeds = [Speed(**values) for values in content.pop("speeds")]
    return Comparison(entries=entries, trials=trials, speeds=speeds, **content)


def _trial(values: dict[str, Any]) -> Trial:
    kinds = {"curve": Point, "positions": Span, "cuts": Cut}
    return Trial(**{**values, **{name: [kind(**part) for part in values[name]] for name, kind in kinds.items()}})
