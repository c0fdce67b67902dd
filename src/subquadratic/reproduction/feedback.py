"""Claims of "Addressing Some Limitations of Transformers with Feedback Memory"."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention, no_leak

PAPER = Paper(name="Feedback Transformer", arxiv="2002.09402")

CLAIMS = (
    Claim(
        id="feedback.variables",
        paper=PAPER,
        place="algorithmic task",
        text="It follows variables through a program, which a Transformer of twice the layers does not.",
        printed="3 variables: Transformer of 8 layers 33.7%, Feedback of 4 layers 99.1%",
        source="repository",
        experiment="algorithms.variables",
        conditions=(
            Condition(number="Feedback", text="printed values right, Feedback Transformer of 2 layers, in each of two seeds", least=0.9),
            Condition(number="gap", text="the same less those of a Transformer of 4 layers, in each of two seeds", least=0.3),
            needs_attention(0.3, "printed values right"),
            no_leak(),
        ),
        seconds=800,
        note=(
            "Smaller than the authors' task: 2 variables, programs of 128 tokens, and printed values are part of the text. Both models are "
            "taught programs of 32 and 64 tokens first, for so many steps as a CPU does in minutes: what a Transformer learns "
            "later is not seen."
        ),
    ),
    Claim(
        id="feedback.segments",
        paper=PAPER,
        place="",
        text="Computing segments of several tokens in parallel, an approximation, costs accuracy on this task: of 8 more than of 2.",
        experiment="algorithms.segments",
        conditions=(
            Condition(
                number="1 less 8", text="printed values right with segments of 1 less those with 8, in each of two seeds", least=0.02
            ),
            Condition(number="1 less 2", text="the same with 2, in each of two seeds", least=0.0),
            Condition(number="Feedback", text="printed values right with segments of 1, in each of two seeds", least=0.9),
            needs_attention(0.1, "printed values right, segments of 8"),
            no_leak(),
        ),
        seconds=800,
    ),
)
