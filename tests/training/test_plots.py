"""The drawing of a run: an axis that its first steps do not squeeze, references on it or named at its end, a file of its own colours."""

from pathlib import Path
from typing import Any

import pytest

from subquadratic.training.plots import loss_range, plot_run

TRAINING = [(1, 8.0), *((step, 2.0 + 2.0 * 0.99**step) for step in range(10, 500, 10))]


def test_the_axis_is_of_what_comes_after_the_beginning() -> None:
    low, high = loss_range(TRAINING, [(0, 8.1), (250, 2.3)], {"uniform guess": 8.02, "unigram": 4.5, "xz": 1.6})
    assert 1.4 < low < 1.6 and 4.5 < high < 4.8  # with byte frequencies and xz, without the untrained model


def test_a_reference_near_the_losses_is_on_it() -> None:
    assert loss_range([(1, 1.0), (10, 0.9)], [], {"uniform guess": 1.0})[1] > 1.0


@pytest.mark.parametrize("points", [[], [(1, 8.0)], [(0, 8.0), (1, 8.0)]])
def test_little_to_draw_has_an_axis_too(points: Any) -> None:
    low, high = loss_range(points, [], {})
    assert low < high


def test_the_same_run_is_the_same_file_without_a_background(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 0, "validation_loss": 5.5}]
    lines += [{"step": step, "loss": loss, "learning_rate": 1e-3, "tokens_per_second": 5000} for step, loss in TRAINING]
    lines += [{"step": 490, "validation_loss": 2.0}, {"step": 490, "validation_loss": 2.1, "final": True}]
    for name in ("a.svg", "b.svg"):
        plot_run(tmp_path / name, lines, factor=1.44, unit="bits/byte", references={"uniform guess": 8.02, "xz": 1.6}, title="a run")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert "#ffffff" not in drawn and "#000000" not in drawn
