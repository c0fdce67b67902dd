"""The verdict on a terminal fits its width, and says what the page says."""

import pytest
from tests.comparison import synthetic

from subquadratic.comparison.against import against
from subquadratic.comparison.terminal import lines
from subquadratic.comparison.verdict import judge


@pytest.mark.parametrize("width", [40, 60, 76, 100])
@pytest.mark.parametrize("make", [synthetic.comparison, synthetic.one_failed_one_skipped, synthetic.halfway, synthetic.hostile])
def test_it_fits(width: int, make: object) -> None:
    found = make()  # type: ignore[operator]
    out = lines(found, width=width, against=against(found, found))
    assert max(map(len, out)) <= width
    said = " ".join(" ".join(out).split())
    assert judge(found).headline in said


def test_the_table_has_a_row_for_each_model_with_a_result() -> None:
    out = lines(synthetic.one_failed_one_skipped(), width=100)
    start = next(index for index, line in enumerate(out) if line.startswith("---"))
    rows = out[start + 1 : out.index("", start)]
    assert [row.split("  ")[0] for row in rows] == ["gated linear attention", "Performer", "exact attention", "Linformer", "Fastformer"]
    assert "better" in rows[0] and "worse" in rows[-1]
