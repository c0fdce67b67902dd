"""What `subq train` uses where nothing else is said: one line per model.

Sizes and rates are for about five minutes on two CPU cores. `context` is the length of a training window in tokens;
`fields` are further fields of the model's configuration. The learning rates are peaks of a cosine.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    dim: int = 256
    depth: int = 4
    heads: int = 4
    context: int = 512
    batch_size: int = 4
    learning_rate: float = 3e-3
    fields: dict[str, Any] = field(default_factory=dict)


DEFAULTS: dict[str, ModelDefaults] = {
    "performer": ModelDefaults(fields={"token_shift": True}),
    "linformer": ModelDefaults(),  # its max_length is the context
    "fastformer": ModelDefaults(),
    # Sequential: a segment of 16 trades the paper's one token at a time for a usable speed.
    "feedback_transformer": ModelDefaults(context=256, fields={"segment_length": 16, "memory_length": 128}),
    "perceiver_ar": ModelDefaults(context=1024, fields={"latents": 512}),
    "transformer": ModelDefaults(),
}
MODELS = tuple(DEFAULTS)
