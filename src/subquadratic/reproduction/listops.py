"""Claims about ListOps in the Long Range Arena."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention

PAPER = Paper(name="Long Range Arena", arxiv="2011.04006")

CLAIMS = (
    Claim(
        id="listops.first_token",
        paper=PAPER,
        place="table 1",
        text=(
            "The score of the best models on ListOps is what the first token alone gives, and that of the Performer what "
            "answering the most common value gives."
        ),
        printed="Transformer 36.37%, Performer 18.01%",
        source="read",
        experiment="algorithms.listops_ceiling",
        conditions=(
            Condition(number="first token", text="accuracy from the first token alone", least=0.3437, most=0.3837),
            Condition(number="majority", text="accuracy of the most common value", least=0.1501, most=0.1901),
        ),
        seconds=15,
        note="From our generator; the benchmark's own expressions are not on this machine.",
    ),
    Claim(
        id="listops.performer",
        paper=PAPER,
        place="table 1",
        text="By its attention a Performer reaches 35% or more on ListOps, where the benchmark has it at the most common value.",
        printed="Transformer 36.37%, Linformer 35.70%, Performer 18.01%",
        source="read",
        experiment="algorithms.listops",
        conditions=(
            Condition(number="Performer", text="accuracy of a Performer", least=0.35),
            needs_attention(0.02, "accuracy of the Performer"),
        ),
        seconds=350,
        note="The claim is ours, against the paper's table. On expressions of 40 to 120 tokens; the paper's have 500 to 2,000.",
    ),
)
