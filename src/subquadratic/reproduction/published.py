"""The published packages beside their twins and our models: the same loss curve where they are right."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import no_leak

CAUSAL = no_leak(models="the twin and of our model")
SLIP = Condition(number="slip", text="how far raw keys, the package's slip, move our model's logits, relative to their size", least=1e-3)
PACKAGES: dict[str, tuple[str, str, str, float, tuple[Condition, ...], str]] = {
    "performer": (
        "Performer",
        "2009.14794",
        "performer-pytorch",
        200.0,
        (CAUSAL,),
        "The package's causal stabiliser looks at keys to come and the twin's does not: equal curves are asked where both read both ways.",
    ),
    "linformer": ("Linformer", "2006.04768", "linformer", 55.0, (), ""),
    "fastformer": (
        "Fastformer",
        "2108.09084",
        "fast-transformer-pytorch",
        55.0,
        (SLIP,),
        "The package sums raw keys; the twin keeps that, our model does not.",
    ),
    "feedback": ("Feedback Transformer", "2002.09402", "feedback-transformer-pytorch", 60.0, (CAUSAL,), ""),
    "perceiver": ("Perceiver AR", "2202.07765", "perceiver-ar-pytorch", 55.0, (CAUSAL,), ""),
}

CLAIMS = tuple(
    Claim(
        id=f"published.{name}",
        paper=Paper(name=paper, arxiv=arxiv),
        place="",
        text=f"Trained by the same loop, the twin of {package} has the package's loss curve, and our {paper} ends no higher.",
        experiment=f"published.{name}",
        conditions=(
            Condition(number="twin", text="largest difference between losses of package and twin, nats", most=1e-3),
            Condition(number="ours", text="loss of our model less that of the package at the end, nats", most=0.05),
            Condition(number="attention", text="loss of the best model without attention less that of ours, nats", least=0.5),
            *more,
        ),
        seconds=seconds,
        note=note,
    )
    for name, (paper, arxiv, package, seconds, more, note) in PACKAGES.items()
)
