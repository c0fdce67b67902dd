"""Claims of "General-purpose, long-context autoregressive modeling with Perceiver AR"."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention, no_leak

PAPER = Paper(name="Perceiver AR", arxiv="2202.07765")

CLAIMS = (
    Claim(
        id="perceiver.mirror",
        paper=PAPER,
        place="copy task",
        text="It learns to copy a sequence backwards without error, with half of the positions as latents.",
        printed="8 of 8 sequences of 131,072 positions copied without error, after 25,000 steps",
        source="repository",
        experiment="copying.mirror",
        conditions=(
            *(
                Condition(number=f"accuracy at {n}", text=f"right in the second half, length {n}, least of three seeds", least=0.999)
                for n in (32, 64, 128)
            ),
            needs_attention(0.9, "right in the second half, length 32"),
            no_leak(),
        ),
        seconds=150,
        note=(
            "With learned absolute positions, which make the mirror image of a place one place. With rotary positions alone, where the "
            "distance to what is copied differs from place to place, 6,000 steps of the same size gave 99.3%, 85.5% and 56.3%."
        ),
    ),
    Claim(
        id="perceiver.curriculum",
        paper=PAPER,
        place="copy task",
        text="Taught shorter sequences first, a small model copies 4,096 positions.",
        experiment="copying.curriculum",
        conditions=(
            Condition(number="accuracy at the end", text="right in the second half, length 4,096", least=0.999),
            no_leak(models="the model"),
        ),
        seconds=1500,
        note="The curriculum is ours; the authors train on the full length, 131,072 positions, with batches of 4,096 sequences.",
    ),
    Claim(
        id="perceiver.prefix_dropout",
        paper=PAPER,
        place="",
        text="Leaving out half of the prefix in training saves time and costs little quality.",
        experiment="copying.prefix_dropout",
        conditions=(
            Condition(number="time", text="time of a step over that with the whole prefix", most=0.9),
            Condition(number="loss", text="loss less that with the whole prefix, nats per token, mean of three seeds", most=0.1),
            Condition(number="prefix", text="loss without the prefix less that with half of it left out in training", least=0.3),
            no_leak(),
        ),
        seconds=60,
        note="On rows of which only the prefix tells the first latents what symbols to expect; on text, short runs learn nothing from it.",
    ),
)
