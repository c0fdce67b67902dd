"""Where packed documents lie: the checks and the chunks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.core.packed import document_bounds, document_chunks, state_rows


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6), chunk=st.integers(1, 15))
def test_chunks_cover_every_position_once_and_cross_no_border(sizes: list[int], chunk: int) -> None:
    bounds = torch.tensor([0, *sizes]).cumsum(0).tolist()
    chunks = document_chunks(bounds, bounds[-1], chunk)
    assert [i for part in chunks for i in range(part.start, part.stop)] == list(range(bounds[-1]))
    for part in chunks:
        document = part.rows.start
        assert part.rows == slice(document, document + 1)
        assert bounds[document] <= part.start < part.stop <= bounds[document + 1]
        assert part.stop - part.start <= chunk
        assert part.first == (part.start == bounds[document])


def test_without_documents_all_rows_are_one() -> None:
    assert document_bounds(None, 3, 7) is None
    assert state_rows(None, 3) == 3
    assert [tuple(part) for part in document_chunks(None, 7, 4)] == [(slice(None), 0, 4, True), (slice(None), 4, 7, False)]


def test_bounds_are_read_with_empty_documents() -> None:
    bounds = document_bounds(torch.tensor([0, 0, 4, 4, 7], dtype=torch.int32), 1, 7, state_rows=4)
    assert bounds == [0, 0, 4, 4, 7]
    assert state_rows(bounds, 1) == 4


@pytest.mark.parametrize(
    ("values", "batch", "rows", "message"),
    [
        (torch.tensor([0.0, 7.0]), 1, None, r"must be \(documents \+ 1,\) of int32 or int64.*got \(2,\) of torch.float32"),
        (torch.tensor([[0, 7]]), 1, None, r"got \(1, 2\)"),
        (torch.tensor([0]), 1, None, r"got \(1,\)"),
        (torch.tensor([0, 7]), 2, None, "the batch must be 1, got 2"),
        (torch.tensor([1, 7]), 1, None, "must run from 0 to the length 7, got 1 to 7"),
        (torch.tensor([0, 6]), 1, None, "must run from 0 to the length 7, got 0 to 6"),
        (torch.tensor([0, 5, 4, 7]), 1, None, "must never fall, got 5 and then 4"),
        (torch.tensor([0, 5, 7]), 1, 1, "one row per document of cu_seqlens = 2, got 1"),
    ],
)
def test_wrong_bounds_are_named(values: torch.Tensor, batch: int, rows: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        document_bounds(values, batch, 7, state_rows=rows)
