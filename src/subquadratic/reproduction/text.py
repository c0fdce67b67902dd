"""Claims about all models on real text: use of the context, length, and our causal forms."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention, no_leak

NONE = Paper(name="all models", arxiv="")
STREAMS = ("Performer", "gated linear", "Fastformer")
NAMES = ("exact attention", "Performer", "gated linear", "Linformer", "Fastformer")

CLAIMS = (
    Claim(
        id="text.loss_by_position",
        paper=NONE,
        place="",
        text="Every causal model predicts the same bytes better after 256 to 511 others than after 16 to 31.",
        experiment="language.by_position",
        conditions=(
            *(Condition(number=f"{name}, gain", text=f"{name}: bits per byte gained", least=0.03) for name in NAMES),
            Condition(number="without attention, gain", text="the same without attention", least=-0.001, most=0.001),
            no_leak(),
        ),
        seconds=300,
    ),
    Claim(
        id="text.long_range",
        paper=NONE,
        place="",
        text="Trained on 512 bytes, a model with a state of constant size reads 65,536 as well as windows of 512.",
        experiment="language.long_range",
        conditions=(
            *(
                Condition(number=name, text=f"{name}: bits per byte of the stream less those of windows, the same bytes", most=0.05)
                for name in STREAMS
            ),
            *(needs_attention(0.1, f"bits per byte of {name}", f"attention, {name}") for name in STREAMS),
            no_leak(),
        ),
        seconds=300,
        note=(
            "Performer and Fastformer have rotary positions, of which training shows them 512; gated linear attention has none. A window "
            "gives a byte 256 to 511 others before it, the stream all since its beginning."
        ),
    ),
    Claim(
        id="text.causal_forms",
        paper=NONE,
        place="",
        text="Our causal Linformer and Fastformer classify about as well as the papers' bidirectional forms.",
        experiment="classifying.causal_forms",
        conditions=(
            *(
                Condition(
                    number=f"causal less bidirectional, {name}",
                    text=f"{name}: accuracy of the causal form less that of the bidirectional, mean of three seeds",
                    least=-0.03,
                )
                for name in ("Fastformer", "Linformer")
            ),
            *(needs_attention(0.2, f"accuracy of the causal {name}", f"attention, {name}") for name in ("Fastformer", "Linformer")),
            no_leak(models="causal forms (hidden states)"),
        ),
        seconds=220,
    ),
)
