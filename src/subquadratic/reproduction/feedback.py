"""Claims of "Addressing Some Limitations of Transformers with Feedback Memory"."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

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
            Condition(number="Feedback", text="printed values right, Feedback Transformer of 2 layers", least=0.9),
            Condition(number="gap", text="the same less those of a Transformer of 4 layers", least=0.3),
        ),
        seconds=600,
        note="Smaller than the authors' task: 2 variables, programs of 128 tokens, and printed values are part of the text.",
    ),
    Claim(
        id="feedback.segments",
        paper=PAPER,
        place="",
        text="Computing segments of several tokens in parallel, an approximation, costs accuracy on this task.",
        experiment="algorithms.segments",
        conditions=(Condition(number="1 less 8", text="printed values right with segments of 1 less those with 8", least=0.02),),
        seconds=1100,
    ),
)
