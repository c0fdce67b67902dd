"""What a kept result says of its claim as it is now, which may ask something else than it did when it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .claim import NOT_RUN, OLDER, Claim, Condition, Outcome, judged
from .results import Result


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Of one result.

    Args:
        result: the result.
        outcome: by the conditions that were asked then.
        conditions: those.
        older: the claim's are others now.
        text: the claim as it read then.
        note: as it read then; empty where that is not known.
        known: the result says what was asked.
    """

    result: Result
    outcome: Outcome
    conditions: Sequence[Condition]
    older: bool
    text: str
    note: str
    known: bool

    @property
    def word(self) -> str:
        """The verdict on the claim as it is now."""
        return OLDER if self.older else self.outcome.verdict


def standing(claim: Claim, result: Result) -> Standing:
    """Judge a result by what was asked when it was measured.

    A result that does not say so is judged by the claim as it is now; without its numbers it is none of this claim, "not run yet".
    """
    form = result.form
    if form is not None:
        outcome = judged(form.conditions, result.measurement)
        return Standing(
            result=result, outcome=outcome, conditions=form.conditions, older=form.conditions != claim.conditions, text=form.text,
            note=form.note, known=True,
        )  # fmt: skip
    try:
        outcome = claim.judge(result.measurement)
    except KeyError:
        outcome = Outcome(verdict=NOT_RUN, measurement=result.measurement)
    return Standing(
        result=result,
        outcome=outcome,
        conditions=claim.conditions if outcome.met else (),
        older=False,
        text=claim.text,
        note="",
        known=False,
    )
