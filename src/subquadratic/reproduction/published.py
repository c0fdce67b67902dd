"""The published packages beside their twins and our models: the same loss curve where they are right."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

PACKAGES = {
    "performer": (
        "Performer",
        "2009.14794",
        "performer-pytorch",
        50.0,
        "Its causal stabiliser looks at keys to come; the twin's does not, so the curves part.",
    ),
    "linformer": ("Linformer", "2006.04768", "linformer", 10.0, ""),
    "fastformer": (
        "Fastformer",
        "2108.09084",
        "fast-transformer-pytorch",
        10.0,
        "The package sums raw keys; the twin keeps that, our model does not.",
    ),
    "feedback": ("Feedback Transformer", "2002.09402", "feedback-transformer-pytorch", 95.0, ""),
    "perceiver": ("Perceiver AR", "2202.07765", "perceiver-ar-pytorch", 10.0, ""),
}

CLAIMS = tuple(
    Claim(
        id=f"published.{name}",
        paper=Paper(name=paper, arxiv=arxiv),
        place="",
        text=f"Trained by the same loop, the twin of {package} has the package's loss curve, and our {paper} ends no higher.",
        experiment=f"published.{name}",
        conditions=(
            Condition(number="twin", text="largest difference between losses of package and twin, nats", most=0.02),
            Condition(number="ours", text="loss of our model less that of the package at the end, nats", most=0.05),
        ),
        seconds=seconds,
        note=note,
    )
    for name, (paper, arxiv, package, seconds, note) in PACKAGES.items()
)
