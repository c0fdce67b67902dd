"""Every claim there is, by id, in the order in which a page tells them. Nothing here needs torch."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from . import fastformer, feedback, linformer, listops, perceiver, performer, published, recall, text
from .claim import Claim

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for module in (performer, linformer, fastformer, recall, text, perceiver, feedback, listops, published)
    for claim in module.CLAIMS
}


def select(patterns: Iterable[str]) -> list[Claim]:
    """The claims whose ids match names or patterns such as `performer.*`, in the catalogue's order.

    Raises:
        ValueError: a pattern that matches nothing, with the nearest id.
    """
    chosen = set()
    for pattern in patterns:
        matching = fnmatch.filter(CLAIMS, pattern) or fnmatch.filter(CLAIMS, f"{pattern}.*")
        if not matching:
            close = difflib.get_close_matches(pattern, CLAIMS, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"claims: there is no claim {pattern!r}{hint}; --list shows all")
        chosen.update(matching)
    return [claim for id_, claim in CLAIMS.items() if id_ in chosen]


def within(claims: Iterable[Claim], budget: float | None) -> tuple[list[Claim], list[Claim]]:
    """The cheapest claims that fit into `budget` seconds together, and those left out; None: all fit."""
    ordered = sorted(claims, key=lambda claim: claim.seconds)
    if budget is None:
        return ordered, []
    taken: list[Claim] = []
    for claim in ordered:
        if cost([*taken, claim]) <= budget:
            taken.append(claim)
    return taken, [claim for claim in ordered if claim not in taken]


def cost(claims: Iterable[Claim]) -> float:
    """Seconds on two cores that measuring them takes: of what claims share, once."""
    dearest: dict[str, float] = {}
    for claim in claims:
        name = claim.group or claim.experiment
        dearest[name] = max(claim.seconds, dearest.get(name, 0.0))
    return sum(dearest.values())
