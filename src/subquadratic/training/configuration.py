"""From options to the configurations of their models, without PyTorch."""

from __future__ import annotations

from typing import Any

from ..models.config import BackboneConfig, config_class
from .options import TrainOptions

CAN = "performer, linformer and transformer can be both"


def backbone_config(options: TrainOptions, **changes: Any) -> BackboneConfig:
    """The configuration that resolved `options` describe.

    Raises:
        ValueError: fields that the configuration does not have or does not accept.
    """
    values = {"dim": options.dim, "depth": options.depth, "heads": options.heads, "causal": options.causal}
    if options.checkpointing:
        values["checkpointing"] = True
    fields = {**values, **options.fields, "model_type": options.model, **changes}
    kind = config_class(fields["model_type"])
    if kind.fixed_length:
        fields.setdefault("max_length", options.context)
    return kind.from_dict(fields)


def length_limit(config: BackboneConfig, context: int | None) -> int | None:
    """The `max_length` a head needs: only position tables have to be filled."""
    return context if config.positions in ("learned", "axial") else None


def pair_configs(options: TrainOptions) -> tuple[BackboneConfig, BackboneConfig]:
    """The encoder's configuration (bidirectional) and the decoder's (causal, reading the encoder).

    Raises:
        ValueError: the model cannot be one of the two; says which can.
    """
    kind = config_class(options.model)
    if kind.causal_only:
        raise ValueError(f"model: {options.model} cannot be the encoder, which sees the source from both sides; {CAN}")
    if not hasattr(kind, "cross_attention"):
        raise ValueError(f"model: {options.model} cannot be the decoder: it has no cross-attention; {CAN}")
    return backbone_config(options, causal=False), backbone_config(options, causal=True, cross_attention=True)
