"""Claims of "Rethinking Attention with Performers" (FAVOR+)."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

PAPER = Paper(name="Performer", arxiv="2009.14794")
OPTIMAL = Paper(name="Chefs' Random Tables", arxiv="2205.15317")
NORMALISED = (
    "The paper calls the inputs of its figure appropriately normalised and prints no standard deviation, so the verdict is for this one."
)

CLAIMS = (
    Claim(
        id="performer.lemma2",
        paper=PAPER,
        place="Lemma 2",
        text=(
            "The mean squared errors of the positive, trigonometric and hyperbolic estimators of the softmax kernel are "
            "those of three closed forms."
        ),
        printed="MSE⁺ = e^‖x+y‖² SM² (1 − e^−‖x+y‖²) / m and two more",
        source="read",
        experiment="kernels.lemma2",
        conditions=tuple(
            Condition(number=kind, text=f"{kind}: measured over formula, furthest from 1", least=0.98, most=1.02)
            for kind in ("positive", "trigonometric", "hyperbolic")
        ),
        seconds=10,
        note="Norms up to 1: beyond, rare draws carry the error, and no sample of this size holds them.",
    ),
    Claim(
        id="performer.theorem2",
        paper=PAPER,
        place="Theorem 2",
        text="Orthogonal features have a smaller mean squared error than independent ones, by at least what the theorem says.",
        printed="MSE(ort⁺) ≤ MSE⁺ − 2(m−1) / (m(d+2)) · (SM − e^−(‖x‖²+‖y‖²)/2)²",
        source="read",
        experiment="kernels.theorem2",
        conditions=(
            Condition(number="ratio at 0.33", text="orthogonal over independent at ‖x+y‖² = 0.33", most=0.9),
            Condition(number="ratio over bound at 0.33", text="the same over the theorem's bound", most=1.0),
            Condition(number="ratio over bound at 1.46", text="the same at ‖x+y‖² = 1.46", most=1.0),
        ),
        seconds=10,
    ),
    Claim(
        id="performer.positive_large",
        paper=PAPER,
        place="section 4.2, figure 4",
        text="Positive features approximate attention better than trigonometric ones: queries and keys of standard deviation 1.",
        experiment="favor_error.positive_large",
        conditions=(
            Condition(number="trigonometric over positive", text="error of trigonometric over positive features, at worst", least=1.0),
        ),
        seconds=5,
        note=f"{NORMALISED} Positive features win, but with errors above 1, the error of answering zero.",
    ),
    Claim(
        id="performer.positive_small",
        paper=PAPER,
        place="section 4.2, figure 4",
        text="Positive features approximate attention better than trigonometric ones: queries and keys of standard deviation 0.5.",
        experiment="favor_error.positive_small",
        conditions=(
            Condition(number="trigonometric over positive", text="error of trigonometric over positive features, at worst", least=1.0),
        ),
        seconds=5,
        note=NORMALISED,
    ),
    Claim(
        id="performer.orthogonal",
        paper=PAPER,
        place="section 4.2, figure 4",
        text="Orthogonal features approximate attention better than independent ones.",
        experiment="favor_error.orthogonality",
        conditions=tuple(
            Condition(
                number=f"independent over orthogonal at {size}", text=f"independent over orthogonal at std {size}, mean over M", least=1.0
            )
            for size in (0.25, 0.5)
        ),
        seconds=6,
        note=(
            "The effect is of some tens of percent, and fifteen samples are few: for a single M either may win. Theorem 2 "
            "is the sharper test."
        ),
    ),
    Claim(
        id="performer.unit_variance",
        paper=PAPER,
        place="",
        text=(
            "256 positive orthogonal features approximate attention of queries and keys of unit variance better than the answer zero does."
        ),
        experiment="favor_error.by_size",
        conditions=(
            Condition(number="error at 1.0", text="relative squared error at std 1", most=1.0),
            Condition(number="error at 0.25", text="relative squared error at std 0.25", most=0.01),
        ),
        seconds=8,
        note="The paper does not say this; it is what one would need of layers whose queries and keys are not kept small.",
    ),
    Claim(
        id="performer.optimal_features",
        paper=OPTIMAL,
        place="section 3.3",
        text="Optimal positive features have a smaller error than positive ones, with as many features.",
        experiment="favor_error.estimators",
        conditions=tuple(
            Condition(number=f"optimal at {size}", text=f"error of positive over optimal features at std {size}", least=1.0)
            for size in (0.25, 0.5, 0.75)
        ),
        seconds=10,
        note="At std 1, where both errors are above 1, the table shows no gain.",
    ),
    Claim(
        id="performer.speed",
        paper=PAPER,
        place="figure 3",
        text="Time grows near-linearly with the length, and is close to that of the identity in place of attention.",
        experiment="speed.performer",
        conditions=(
            Condition(number="slope", text="slope of log time against log length, 1,024 to 8,192", most=1.2),
            Condition(number="over identity", text="time over that of the identity at 8,192", most=2.0),
        ),
        seconds=100,
        note="The paper's figure has 6 layers on a GPU and no numbers beside its lines; the bounds are ours.",
    ),
)
