"""A small text, and runs of small models on it."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from subquadratic.training import TrainOptions
from subquadratic.training.display import PlainDisplay
from subquadratic.training.entry import train
from subquadratic.training.problems import samples
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


@pytest.fixture(scope="session", autouse=True)
def short_samples() -> Iterator[None]:
    """What a model writes is looked at, and not how long it goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "NEW_TOKENS", 20)
        yield


@pytest.fixture
def drawn() -> None:
    """For a test that looks at the curves: elsewhere an empty drawing saves a third of the time of a small run."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("subquadratic.training.run.plot_run", lambda path, *_, **__: path.write_text("<svg></svg>\n"))


@pytest.fixture(scope="session")
def trained_on() -> Callable[[Path], Runner]:
    """From a text to what trains on it."""

    def trained_on(text: Path) -> Runner:
        def run(out: Path, **options: Any) -> Any:
            settings: dict[str, Any] = {**SMALL, **options}
            if not {"data", "task"} & set(settings):
                settings["data"] = str(text)
            settings["fields"] = {**FIELDS.get(settings.get("model", "performer"), {}), **settings.get("fields", {})}
            return train(TrainOptions(out=str(out), **settings), PlainDisplay(io.StringIO()))

        return run

    return trained_on


@pytest.fixture
def run(text: Path, trained_on: Callable[[Path], Runner]) -> Runner:
    """Trains a small model on the text (or on what `data` or `task` name) into the folder given, with options on top."""
    return trained_on(text)


@pytest.fixture
def measurements() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl."""
    return lambda out: [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
