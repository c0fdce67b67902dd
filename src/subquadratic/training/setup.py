"""From options to a backbone's configuration, and the facts that tell whether two runs may be compared."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import torch

from ..models.config import BackboneConfig, config_class
from .options import TrainOptions

Progress = Callable[[int, int | None], None] | None  # called with the bytes done, and the bytes there are (None: not known)


def backbone_config(options: TrainOptions, **changes: Any) -> BackboneConfig:
    """The configuration that resolved `options` describe.

    Raises:
        ValueError: fields that the configuration does not have or does not accept.
    """
    values = {"dim": options.dim, "depth": options.depth, "heads": options.heads, "causal": options.causal}
    if options.checkpointing:
        values["checkpointing"] = True
    fields = {**values, **options.fields, "model_type": options.model, **changes}
    if fields["model_type"] == "linformer":
        fields.setdefault("max_length", options.context)
    return config_class(fields["model_type"]).from_dict(fields)


def length_limit(config: BackboneConfig, context: int | None) -> int | None:
    """The `max_length` a head needs: only position tables have to be filled."""
    return context if config.positions in ("learned", "axial") else None


def examples_facts(examples: Any) -> dict[str, Any]:
    """What `run.json` says of labelled rows or pairs."""
    return {
        "name": examples.name,
        "digest": examples.digest,
        "tokenizer": examples.tokenizer.name,
        "tokenizer_digest": examples.tokenizer.digest,
        "split": examples.split,
        "train": len(examples.train),
        "validation": len(examples.validation),
    }


def describe(options: TrainOptions, parameters: int, data: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says from the start on."""
    packages = ("subquadratic", "torch", "transformers", "accelerate", "numpy")
    return {
        "model": options.model,
        "parameters": parameters,
        "corpus": data,
        "versions": {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "machine": {"cpu_threads": torch.get_num_threads(), "gpus": torch.cuda.device_count()},
    }
