"""Claims about all models on real text: use of the context, length, and our causal forms."""

from __future__ import annotations

from .claim import Claim, Condition, Paper

NONE = Paper(name="all models", arxiv="")
NAMES = ("exact attention", "Performer", "gated linear", "Linformer", "Fastformer")

CLAIMS = (
    Claim(
        id="text.loss_by_position",
        paper=NONE,
        place="",
        text="Every causal model predicts better with more text before: after 256 to 511 bytes than after 16 to 31.",
        experiment="language.by_position",
        conditions=tuple(Condition(number=f"{name}, gain", text=f"{name}: bits per byte gained", least=0.05) for name in NAMES),
        seconds=200,
    ),
    Claim(
        id="text.long_range",
        paper=NONE,
        place="",
        text="Trained on 512 bytes, a model with a state of constant size reads 65,536 as well as windows of 512.",
        experiment="language.long_range",
        conditions=tuple(
            Condition(number=name, text=f"{name}: bits per byte after more than 512 bytes less those late in a window", most=0.05)
            for name in ("Performer", "gated linear", "Fastformer")
        ),
        seconds=200,
        note=(
            "Performer and Fastformer have rotary positions, of which training shows them 512; gated linear attention has none. The stream "
            "and the windows are the same text, but not the same predictions."
        ),
    ),
    Claim(
        id="text.causal_forms",
        paper=NONE,
        place="",
        text="Our causal Linformer and Fastformer classify about as well as the papers' bidirectional forms.",
        experiment="classifying.causal_forms",
        conditions=tuple(
            Condition(number=name, text=f"{name}: accuracy of the causal form less that of the bidirectional", least=-0.03)
            for name in ("Fastformer", "Linformer")
        ),
        seconds=120,
    ),
)
