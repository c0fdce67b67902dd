"""What `subq train` uses where nothing else is said: one line per model.

Sizes and rates are for about five minutes on two CPU cores, where many small steps are worth more than few large ones; how they were
found is in docs/defaults.md. `context` is the length of a training window in tokens, the learning rates are peaks, `fields`
are further fields of the model's configuration, and `causal_only` says again what the configuration says, which only torch could tell
(a test compares).
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    dim: int = 256
    depth: int = 4
    heads: int = 4
    context: int = 256
    batch_size: int = 2
    learning_rate: float = 2e-3
    fields: dict[str, Any] = field(default_factory=dict)
    causal_only: bool = False

    def fields_beside(self, given: dict[str, Any], heads: int) -> dict[str, Any]:
        """`fields`, without what would contradict the fields and heads that are given."""
        fields = {**self.fields, **given}
        if given.get("kernel") == "efficient" and "features" not in given:
            fields.pop("features", None)  # it has no random features
        if "local_heads" in self.fields and "local_heads" not in given:
            fields["local_heads"] = min(self.fields["local_heads"], heads - 1)
        return fields


SHIFT = 5  # a quarter of the channels from the token before, an eighth from the one before that ...
GATED = {"ff_glu": True, "ff_mult": 2.667}  # as many weights as an ungated layer of four times the width

DEFAULTS: dict[str, ModelDefaults] = {
    # Local heads and the token shift give the neighbourhood exactly; random features the rest.
    "performer": ModelDefaults(depth=3, fields={"features": 64, "local_heads": 3, "local_window": 64, "token_shift": SHIFT, **GATED}),
    "linformer": ModelDefaults(fields={"slots": 64, "token_shift": SHIFT}),  # its max_length is the context
    "fastformer": ModelDefaults(fields={"token_shift": SHIFT, **GATED}),
    # Sequential: a segment of 16 trades the paper's one token at a time for a usable speed.
    "feedback_transformer": ModelDefaults(causal_only=True, fields={"segment_length": 16, "memory_length": 128}),
    "gated_linear": ModelDefaults(depth=3, causal_only=True, fields={"token_shift": SHIFT, **GATED}),
    "perceiver_ar": ModelDefaults(causal_only=True, fields={"latents": 128}),
    "transformer": ModelDefaults(depth=3, fields={"token_shift": SHIFT, **GATED}),
}
MODELS = tuple(DEFAULTS)
