"""`subq models`: complete, true, and within the width of a page."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.models.config import BackboneConfig, config_class, model_types


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["models", *argv]) == 0
    return capsys.readouterr().out


def test_every_model_is_there_and_every_line_fits(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    for name in model_types():
        assert text.count(f"\n{name} ") == 2  # once in each table
        one = shown(capsys, name)
        for field in dataclasses.fields(config_class(name)):
            assert f"\n  {field.name} " in one
        assert max(map(len, one.splitlines())) <= 100
    assert max(map(len, text.splitlines())) <= 100


def test_the_facts_are_the_ones_of_the_papers_and_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {row["name"]: row for row in json.loads(shown(capsys, "--format", "json"))}
    assert {name: row["paper"] for name, row in facts.items()} == {
        "fastformer": "2108.09084",
        "feedback_transformer": "2002.09402",
        "linformer": "2006.04768",
        "gated_linear": "2312.06635",
        "perceiver_ar": "2202.07765",
        "performer": "2009.14794",
        "transformer": "1706.03762",
    }
    assert {name: row["state"] for name, row in facts.items()} == {
        "fastformer": "constant",
        "feedback_transformer": "constant",
        "linformer": "constant, up to max_length",
        "gated_linear": "constant",
        "perceiver_ar": "grows",
        "performer": "constant",
        "transformer": "grows; constant with window",
    }
    assert [name for name, row in facts.items() if row["needs_max_length"]] == ["linformer"]
    assert {name for name, row in facts.items() if not row["bidirectional"]} == {"feedback_transformer", "gated_linear", "perceiver_ar"}
    assert {name for name, row in facts.items() if not row["cross_attention"]} == {"fastformer", "gated_linear", "perceiver_ar"}
    assert "rotary" not in facts["linformer"]["positions"]
    assert all(row["cost"] for row in facts.values())


def test_fields_come_with_their_text_and_true_default(capsys: pytest.CaptureFixture[str]) -> None:
    one = " ".join(shown(capsys, "perceiver_ar").split())
    assert "cross_depth Layers of cross-attention to the whole input" in one
    assert "self-attention. Default: 1." in one
    assert "dim Model width D. Default: none, it must be given." in one
    assert "prefix_dropout" in one
    assert "Default: 0.0." in one


def test_a_model_that_is_added_describes_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class NovelConfig(sq.FastformerConfig):
        """A model of tomorrow."""

        model_type: ClassVar[str] = ""
        speed: int = 9
        """How fast it is."""

    monkeypatch.setattr(NovelConfig, "model_type", "novel")
    known: dict[str, Any] = {**BackboneConfig._classes, "novel": NovelConfig}
    monkeypatch.setattr(BackboneConfig, "_classes", known)
    assert "\nnovel " in shown(capsys)
    assert "speed" in shown(capsys, "novel")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["perfomer"], "did you mean 'performer'?"),
        (["gpt"], "must be one of 'fastformer'"),
        (["--format", "yaml"], "one of text, json"),
        (["--modle", "performer"], "did you mean --model?"),
        (["performer", "linformer"], "linformer"),
    ],
    ids=["typo", "unknown", "format", "flag", "surplus"],
)
def test_bad_input_is_one_clear_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBQ_TRACEBACK", raising=False)
    assert main(["models", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_without_standard_output_there_is_one_clear_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "subq models: there is no standard output to write to\n"
