"""Claims of "Fastformer: Additive Attention Can Be All You Need"."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

PAPER = Paper(name="Fastformer", arxiv="2108.09084")
ONLY = (
    "The paper's reviews and news are not on this machine. On windows of source code a model without attention classified as well as any, "
    "so the rows are random ones whose class is a matter of pairs of tokens; after 400 steps models still learn."
)
NEEDED = "accuracy of a Fastformer less that of exact attention's model with its attention's output times zero"

CLAIMS = (
    Claim(
        id="fastformer.equations",
        paper=PAPER,
        place="the authors' notebook",
        text=(
            "The layer computes the paper's equations, bidirectional, and causal with means up to each position, with and without rotary "
            "positions; summing raw keys, as the package fast-transformer-pytorch does, is another function."
        ),
        printed="α = softmax(W_a q / √d); p = k ⊙ Σ α q; β = softmax(W_b p / √d); u = (Σ β p) ⊙ q, transformed, + q",
        source="repository",
        experiment="additive.equations",
        conditions=(
            Condition(number="float64", text="relative difference of our layer, at worst, float64", most=1e-7),
            Condition(number="float32", text="the same in float32, by the C kernels where there are some", most=1e-5),
            Condition(number="raw keys", text="relative difference that raw keys make, at least", least=1e-3),
        ),
        seconds=1,
        note=(
            "The causal and the rotary form are not the authors': they are compared with what our documentation says of them. Rotary "
            "angles are float32."
        ),
    ),
    Claim(
        id="fastformer.linear",
        paper=PAPER,
        place="abstract",
        text="Time grows linearly with the length, and is below that of exact attention on long sequences.",
        experiment="speed.fastformer",
        conditions=(
            Condition(number="slope", text="slope of log time against log length, 1,024 to 16,384", most=1.15),
            Condition(
                number="exact over Fastformer",
                text="time of exact attention over Fastformer's at the longest both were measured",
                least=2.0,
            ),
            Condition(number="difference", text="difference of the timed layer from the equations, relative", most=1e-4),
        ),
        seconds=80,
        note="The paper's speeds are figures without numbers; the bounds are ours.",
    ),
    Claim(
        id="fastformer.raw_keys",
        paper=PAPER,
        place="equation 6",
        text=(
            "Averaging the keys times the global query, as the paper has it, classifies better than averaging raw keys, as "
            "the published package does."
        ),
        experiment="classifying.raw_keys",
        conditions=(
            Condition(number="difference", text="accuracy less that with raw keys, mean of three seeds", least=0.0),
            Condition(number="attention", text=NEEDED, least=0.2),
        ),
        seconds=130,
        note=ONLY,
    ),
    Claim(
        id="fastformer.classifying",
        paper=PAPER,
        place="abstract",
        text="A Fastformer classifies about as well as exact attention.",
        experiment="classifying.fastformer",
        conditions=(
            Condition(number="difference", text="accuracy less that of exact attention, mean of three seeds", least=-0.02),
            Condition(number="attention", text=NEEDED, least=0.2),
        ),
        seconds=130,
        note=ONLY,
    ),
)
