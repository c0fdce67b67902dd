"""Claims about associative recall (MQAR): what a state can hold."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention, no_leak

PAPER = Paper(name="Zoology", arxiv="2312.04927")

CLAIMS = (
    Claim(
        id="recall.state_size",
        paper=PAPER,
        place="",
        text="How many pairs linear attention can hold is proportional to the size of its state.",
        experiment="recall.state_size",
        conditions=(
            Condition(number="linear slope", text="slope of log pairs against log key width", least=0.8, most=1.2),
            Condition(number="favor slope", text="slope of log pairs against log features of FAVOR+", least=0.8, most=1.2),
        ),
        seconds=8,
        note="Nothing is trained: random keys and values go through our operations, and are read again.",
    ),
    Claim(
        id="recall.trained",
        paper=PAPER,
        place="",
        text="Trained, exact attention recalls 4 and 16 pairs, and a model with a smaller state fewer of them; more state, more pairs.",
        experiment="trained_recall.trained",
        conditions=(
            Condition(number="exact attention, 4 pairs", text="accuracy of exact attention, 4 pairs", least=0.99),
            Condition(
                number="exact attention, least of the seeds", text="accuracy of exact attention, 16 pairs, least of 3 seeds", least=0.99
            ),
            Condition(number="exact less Fastformer", text="accuracy with 16 pairs less that of a Fastformer, mean of 3 seeds", least=0.3),
            Condition(
                number="gain", text="gated linear attention, 16 pairs: accuracy with key widths 8 and 16 less that with 1", least=0.1
            ),
            needs_attention(0.5, "accuracy of exact attention, 16 pairs"),
            no_leak(),
        ),
        seconds=400,
    ),
)
