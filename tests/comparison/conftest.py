"""A small text, and comparisons on it that take seconds: their conditions are set, where otherwise a budget is divided."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subquadratic.comparison import run as running
from subquadratic.comparison.comparing import Comparing
from subquadratic.comparison.display import Display
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.results import Comparison
from subquadratic.comparison.tasks import Session
from subquadratic.comparison.workers import WorkError
from subquadratic.training.display import PlainDisplay

STEPS = 4


class InProcess:
    """Answers as a worker does, without a process of its own, which takes five seconds to start."""

    def __init__(self, options: CompareOptions) -> None:
        self.options = options
        self.session: Session | None = None

    def ask(self, do: str, tell: Callable[[dict[str, Any]], None] = lambda progress: None, **arguments: Any) -> Any:
        try:
            if self.session is None:
                self.session = Session(self.options, lambda **values: tell(values))
            return json.loads(json.dumps(getattr(self.session, do)(**arguments)))
        except ValueError as error:
            raise WorkError(str(error), kind="ValueError") from error

    def close(self, *, interrupted: bool = False) -> None: ...


Maker = Callable[..., Comparing]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 200)
    return path


def conditions(names: list[str], *, equal: str) -> dict[str, Any]:
    steps = None if equal == "time" else dict.fromkeys(names, STEPS)
    rates = None if equal == "time" else dict.fromkeys(names, 2)
    return {
        "run_seconds": 0.3 if equal == "time" else None, "run_steps": steps, "rate_seconds": 0.1 if equal == "time" else None,
        "rate_steps": rates, "items": 4, "sample_items": 2, "examine_seconds": 0.5, "speed_seconds": 4.0,
    }  # fmt: skip


@pytest.fixture
def comparing(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Begins a comparison in `tmp_path / "out"`, or goes on with what is there; what it shows is in `display.inner.stream`.

    Time and memory against length, which take fresh processes, are measured with ``speeds``.
    """
    timed: list[Comparing] = []
    measure_speeds = running.measure_speeds
    monkeypatch.setattr(running, "measure_speeds", lambda made: measure_speeds(made) if made in timed else None)

    def make(
        models: str = "performer,transformer",
        *,
        comparison: Comparison | None = None,
        folder: str = "out",
        limits: Any = None,
        process: bool = False,
        speeds: bool = False,
        **given: Any,
    ) -> Comparing:
        own: dict[str, Any] = {"data": str(text)} if "task" not in given and "data" not in given else {}
        own |= {"length": 32, "parameters": "20k", "seeds": 2, "rates": 2, "equal": "tokens", "threads": 1, "longest": 32, **given}
        options = CompareOptions(models=models, **own)
        options.check()
        (tmp_path / folder).mkdir(exist_ok=True)
        found = Comparing(options, tmp_path / folder, Display(PlainDisplay(io.StringIO())), comparison=comparison)
        if speeds:
            timed.append(found)
        if not process:
            found.workers = InProcess(options)  # type: ignore[assignment]
        names = [entry.name for entry in found.comparison.entries]
        found.comparison.settings.setdefault("conditions", {**conditions(names, equal=options.equal), **(limits or {})})
        return found

    return make
