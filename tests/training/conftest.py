"""A small text, and runs of small models on it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subquadratic.training import TrainOptions
from subquadratic.training.display import PlainDisplay
from subquadratic.training.entry import train
from subquadratic.training.run import TrainResult

SMALL = {"dim": 16, "depth": 1, "heads": 2, "context": 32, "batch_size": 2, "evaluations": 0, "max_steps": 3}
FIELDS = {
    "performer": {"features": 8, "local_heads": 1, "local_window": 8},
    "perceiver_ar": {"latents": 16},
    "linformer": {"slots": 4},
    "feedback_transformer": {"segment_length": 8, "memory_length": 8},
}
Runner = Callable[..., TrainResult]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 100)
    return path


@pytest.fixture
def run(text: Path) -> Runner:
    """Trains a small model on the text (or on what `data` or `task` name) into the folder given, with options on top."""

    def run(out: Path, **options: Any) -> Any:
        settings: dict[str, Any] = {**SMALL, **options}
        if not {"data", "task"} & set(settings):
            settings["data"] = str(text)
        settings["fields"] = {**FIELDS.get(settings.get("model", "performer"), {}), **settings.get("fields", {})}
        return train(TrainOptions(out=str(out), **settings), PlainDisplay(io.StringIO()))

    return run


@pytest.fixture
def measurements() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl."""
    return lambda out: [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
