"""Claims of "Rethinking Attention with Performers" (FAVOR+)."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

PAPER = Paper(name="Performer", arxiv="2009.14794")
OPTIMAL = Paper(name="Chefs' Random Tables", arxiv="2205.15317")
NORMALISED = (
    "The paper calls the inputs of its figure appropriately normalised and prints no standard deviation, so the verdict is for this one."
)
WAYS = "bidirectional and causal, relative"


def same(*, float64: float = 1e-9, float32: float = 1e-4) -> tuple[Condition, ...]:
    """That what is measured is the formula of random features at all, to rounding."""
    return (
        Condition(number="float64", text=f"difference of the layers' code from the formula, {WAYS}, float64", most=float64),
        Condition(number="float32", text="the same in float32, by the C kernels where there are some", most=float32),
    )


def _positive(id_: str, size: float, experiment: str, note: str = "") -> Claim:
    return Claim(
        id=id_,
        paper=PAPER,
        place="section 4.2, figure 4",
        text=f"Positive features approximate attention better than trigonometric ones: queries and keys of standard deviation {size:g}.",
        experiment=experiment,
        conditions=(
            Condition(number="trigonometric over positive", text="error of trigonometric over positive features, worst M", least=1.0),
            *same(),
        ),
        seconds=5,
        note=f"{NORMALISED} {note}".strip(),
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
        conditions=(
            *(
                Condition(number=kind, text=f"{kind}: measured over formula less 1, in percent, furthest from 0", least=-2.0, most=2.0)
                for kind in ("positive", "trigonometric", "hyperbolic")
            ),
            Condition(number="positive, float64", text="the same of the layers' positive features, float64", least=-2.0, most=2.0),
            Condition(number="positive, float32", text="the same in float32, by the C kernels where there are some", least=-2.0, most=2.0),
        ),
        seconds=15,
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
            Condition(number="ratio over theory at 0.33", text="the same over its exact value", least=0.98, most=1.02),
            Condition(number="ratio over bound at 1.46", text="at ‖x+y‖² = 1.46 over the theorem's bound", most=1.0),
            Condition(number="ratio over theory at 1.46", text="the same over its exact value", least=0.92, most=1.08),
        ),
        seconds=8,
        note=(
            "The exact value is ours, in closed form. The tolerances are about four standard errors. Of float64 and float32 the worse "
            "one counts."
        ),
    ),
    _positive(
        "performer.positive_large",
        1.0,
        "favor_error.positive_large",
        "An error of 1 is that of answering zero: see the table for whether either kind of features approximates anything here.",
    ),
    _positive("performer.positive_middle", 0.75, "favor_error.positive_middle"),
    _positive("performer.positive_small", 0.5, "favor_error.positive_small"),
    Claim(
        id="performer.orthogonal",
        paper=PAPER,
        place="section 4.2, figure 4",
        text="Orthogonal features approximate attention better than independent ones.",
        experiment="favor_error.orthogonality",
        conditions=(
            *(
                Condition(
                    number=f"independent over orthogonal at {size}",
                    text=f"error of independent over orthogonal features at std {size}, mean over M",
                    least=1.0,
                )
                for size in (0.25, 0.5)
            ),
            *(
                Condition(
                    number=f"independent over theory at {size}",
                    text=f"error of independent features over that of theory at std {size}, M = 256",
                    least=0.67,
                    most=1.5,
                )
                for size in (0.25, 0.5)
            ),
            *same(),
        ),
        seconds=6,
        note=(
            "The effect is of some tens of percent, and the figure's fifteen samples are few: here there are four times as many, of a "
            "quarter of the length. What theory gives is ours, to first order in 1/M. Theorem 2 is the sharper test."
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
            *same(),
        ),
        seconds=6,
        note="The paper does not say this; it is what one would need of layers whose queries and keys are not kept small.",
    ),
    Claim(
        id="performer.optimal_features",
        paper=OPTIMAL,
        place="",
        text="Optimal positive features have a smaller error than positive ones, with as many features.",
        experiment="favor_error.estimators",
        conditions=(
            *(
                Condition(number=f"optimal at {size}", text=f"error of positive over optimal features at std {size}", least=1.0)
                for size in (0.25, 0.5, 0.75)
            ),
            *same(float64=1e-5),
        ),
        seconds=8,
        note=(
            "Both estimators are compared with their formulas. Optimal features are computed through powers of two that leave 1e-7 of "
            "float64. Std 1 is in the table; there both errors may be above 1, that of answering zero."
        ),
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
            Condition(number="difference", text="difference of the timed layer's attention from the formula, relative", most=1e-4),
        ),
        seconds=100,
        note="The paper's figure has 6 layers on a GPU and no numbers beside its lines; the bounds are ours.",
    ),
)
