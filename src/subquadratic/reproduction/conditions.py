"""Conditions that many claims about trained models share: without them, a model that learned nothing, or saw the answer, would do."""

from __future__ import annotations

from .claim import Condition

ROUNDING = 1e-3  # of logits, between two calls over different tokens


def no_leak(number: str = "leak", models: str = "causal models") -> Condition:
    """Outputs do not depend on later tokens."""
    return Condition(number=number, text=f"how far outputs of {models} move when later tokens change, at most", most=ROUNDING)


def needs_attention(least: float, what: str, number: str = "attention") -> Condition:
    """What attention is worth: without it, the task is done worse."""
    return Condition(
        number=number, text=f"what attention is worth: {what}, against a model with its attention's output times zero", least=least
    )
