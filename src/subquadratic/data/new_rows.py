"""New rows for a classifier or an encoder-decoder: a text each, no answer, and the fields that are to stand beside what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .documents import rows_of
from .fields import MissingField, as_text, pick
from .passed_over import PassedOver
from .source import Source

ALL = "*"  # every field


class NewRow(NamedTuple):
    """`text` is empty where the row has none."""

    where: str
    text: bytes
    carried: dict[str, Any]


def read_new_rows(
    source: Source, passed: PassedOver, *, carry: Sequence[str] = (), progress: Callable[[int], None] | None = None
) -> Iterator[NewRow]:
    """The rows of the tables of `source`, in their order.

    Args:
        passed: hears of bad rows, which are left out where they are to be skipped.
        carry: fields to carry along; `"*"` is all of them.

    Raises:
        ValueError: a row or a table that cannot be used, a field that is not there.
    """
    seen: set[str] = set()  # fields to carry that a row had
    for name, path in source.files:
        if source.kind(name) is None:
            passed.add(source.without_field, name)
            continue
        for where, row in rows_of(source, name, path, {"text": source.text}, passed, progress, whole=bool(carry)):
            try:
                text = as_text(row[source.text], "text", source.text, where)
                carried = row if ALL in carry else {field: pick(row, "carry", field, where) for field in carry}
            except MissingField as error:
                if source.kind(name) not in ("json", "jsonl"):
                    raise  # no row has it
                passed.bad_row(where, str(error), alone=seen.issuperset(carry))
                continue
            except ValueError as error:
                passed.bad_row(where, str(error))
                continue
            seen.update(carried)
            yield NewRow(where, text if text.strip() else b"", carried)
