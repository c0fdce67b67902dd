"""What a worker says of what went wrong."""

import pytest

from subquadratic.comparison.worker import _said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("give more text or a\n smaller --context (now 512)"), "give more text or a smaller --length (now 512)"),
        (ArithmeticError("odd"), "ArithmeticError: odd"),
        (RuntimeError(), "RuntimeError: no message"),
    ],
)
def test_mistakes_are_told_in_the_words_of_this_command(error: Exception, said: str) -> None:
    assert _said(error) == said
