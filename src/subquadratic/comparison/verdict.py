"""The verdict of a comparison in plain sentences: true as far as the measurements go, and enough to decide.

Better, worse, faster and sooner are said only where the interval excludes the opposite (`statistics.py`); what the intervals leave open is
called open.
"""

from __future__ import annotations

from dataclasses import dataclass

from .findings.choices import Choice, choices
from .findings.context import context_sentences
from .findings.costs import fits
from .findings.crossings import crossings, overtakes
from .findings.fairness import budget_sentence, parameters_sentence, steps_sentence
from .findings.learned import learned_sentence, nothing_learned
from .findings.missing import caveats, failed, not_tried, unfinished
from .findings.quality import against_exact, headline, later, sooner
from .findings.standings import Standing
from .observed import exact, ranked, scores
from .results import Comparison


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Sentences by what they answer. `not_tried` has (label, reason); the others are whole sentences."""

    headline: str
    """The answer, of which `more` are the sentences that belong beside it."""
    more: list[str]
    warnings: list[str]
    """To be read before the headline: models that learned nothing, sizes or budgets that differ, a busy machine."""
    unfinished: list[str]
    quality: list[str]
    lengths: list[str]
    crossings: list[Standing]
    context: list[str]
    choices: list[Choice]
    failed: list[str]
    not_tried: list[tuple[str, str]]
    caveats: list[str]


def judge(comparison: Comparison) -> Verdict:
    """All that a comparison, finished or not, allows to say."""
    best, base = next(iter(ranked(comparison, scores(comparison))), None), exact(comparison)
    first = None if best is None else sooner(comparison).get(best)
    found = crossings(comparison)
    over, ends = overtakes(comparison, found), fits(comparison)
    warnings = (learned_sentence, parameters_sentence, budget_sentence, steps_sentence)
    beside = [first, over.get(best) if best else None, ends.get(base) if base and "not fit" in ends.get(base, "") else None]
    return Verdict(
        headline=headline(comparison),
        more=[text for text in beside if text] if not nothing_learned(comparison) else [],
        warnings=[text for tell in warnings if (text := tell(comparison)) is not None],
        unfinished=unfinished(comparison),
        quality=[*against_exact(comparison), *sooner(comparison).values(), *later(comparison).values()],
        lengths=[*over.values(), *ends.values()],
        crossings=found,
        context=context_sentences(comparison),
        choices=choices(comparison),
        failed=failed(comparison),
        not_tried=not_tried(comparison),
        caveats=caveats(comparison),
    )
