"""The options of a comparison: what is refused before PyTorch is loaded, and what names stand for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from subquadratic.comparison.options import CompareOptions, foreign, foreign_model, ours, target_parameters
from subquadratic.training import MODELS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": "performr"}, "did you mean performer"),
        ({"models": "performer,performer"}, "performer is there twice"),
        ({"models": "none"}, "there is no model"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"rates": 99}, "rates must be at most 15"),
        ({"budget": "10"}, "budget must be at least 60 seconds"),
        ({"budget": "soon"}, "budget must be a time"),
        ({"parameters": "many"}, "parameters must be a number"),
        ({"parameters": "3"}, "parameters must be a number from 1k"),
        ({"length": 1}, "length must be at least 8"),
        ({"data": "-"}, "standard input can be read once"),
        ({"add_model": "performer"}, "name its folder with --resume"),
        ({"resume": "x", "out": "y"}, "leave out --out"),
        ({"quiet": True, "json": True}, "leave out one of the two"),
        ({"label": "stars"}, "names a column of the data"),
        ({"model": "missing.py:build"}, "there is no file missing.py"),
        ({"model": "nowhere"}, "neither FILE.py:FUNCTION nor the folder"),
    ],
)
def test_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CompareOptions(**given).check()


@pytest.mark.parametrize(("text", "number"), [("1000000", 10**6), ("500k", 500_000), ("3m", 3 * 10**6), ("1.5M", 1_500_000), (None, None)])
def test_numbers_of_parameters(text: str | None, number: int | None) -> None:
    assert target_parameters(text) == number


def test_all_models_of_the_package() -> None:
    assert ours(CompareOptions()) == list(MODELS)
    assert ours(CompareOptions(models="none")) == []
    assert ours(CompareOptions(models="linformer, performer")) == ["linformer", "performer"]


def test_models_of_others(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.py", tmp_path / "gpt2"
    file.write_text("def build(vocab_size): ...\n")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    found = foreign(CompareOptions(model=f"{file}:build,{folder}"))
    assert [(model.name, model.source) for model in found] == [("mine:build", "file"), ("gpt2", "transformers")]
    assert found[0].spec() == {"source": "file", "path": str(file), "function": "build"}
    with pytest.raises(ValueError, match="names no function"):
        foreign_model(str(file))


def test_options_load_no_torch() -> None:
    code = "import sys; import subquadratic.cli.compare; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
