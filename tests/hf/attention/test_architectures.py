"""The support table: what it is made of, for a few architectures, and (slow) that none of all is wrong in silence."""

import pytest

pytest.importorskip("transformers")

from tests.hf.attention.architectures import NEVER, Row, examine, model_types, table

from subquadratic.hf.attention import NAMES
from subquadratic.hf.attention.options import FAVOR, LINFORMER, WINDOW


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("electra", {FAVOR: "close", WINDOW: "exact", LINFORMER: "exact"}),
        ("olmo2", {FAVOR: "close", WINDOW: "exact", LINFORMER: "refused: is causal"}),
        ("llava", {FAVOR: "close", WINDOW: "exact", LINFORMER: "refused: is causal"}),
        ("bart", {FAVOR: "close", WINDOW: "exact", LINFORMER: "refused: is causal"}),
        ("mt5", dict.fromkeys(NAMES, "refused: adds a position bias")),
        ("llama4_text", dict.fromkeys(NAMES, "refused: the model masks its attention by the pattern chunked_overlay")),
        ("xglm", dict.fromkeys(NAMES, NEVER)),
        ("git", dict.fromkeys(NAMES, "refused by transformers")),
    ],
)
def test_what_is_found_of_an_architecture(model_type: str, expected: dict[str, str]) -> None:
    row = examine(model_type)
    assert not row.error
    for name, start in expected.items():
        assert row.found[name].startswith(start)


def test_the_table_has_a_line_for_each_that_was_tried() -> None:
    rows = [Row("tried", "TriedModel", found=dict.fromkeys(NAMES, "exact")), Row("other", error="no tiny configuration")]
    lines = table(rows).splitlines()
    assert lines[-1] == "| tried | `TriedModel` | exact | exact | exact |" and "1 architectures (of 2" in lines[0]


@pytest.mark.slow
def test_no_architecture_is_wrong_in_silence() -> None:
    """Where a window sees everything, what is computed is exact or refused; so are slots for every token."""
    rows = [row for name in model_types() if (row := examine(name, (WINDOW, LINFORMER))).found]
    assert len(rows) > 200
    wrong = {row.model_type: row.found for row in rows if any(finding.startswith("close") for finding in row.found.values())}
    assert not wrong
