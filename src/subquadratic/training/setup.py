"""What a run is made of: windows, model, and the facts that tell whether two runs may be compared."""

from __future__ import annotations

import importlib.metadata
import lzma
import platform
from typing import Any

import numpy as np
import torch

from ..data import ByteTokenizer, Corpus, Windows
from ..models.config import config_class
from ..models.language_model import LanguageModel
from .options import TrainOptions

REFERENCE_TOKENS = 2_000_000  # of the validation text, for xz and byte frequencies


def make_windows(corpus: Corpus, options: TrainOptions) -> tuple[Windows, Windows]:
    """Windows to train on, side by side, and windows to validate on, overlapping so that each token is predicted once.

    Raises:
        ValueError: either side of the corpus is shorter than one window.
    """
    assert options.context is not None
    stride = options.context
    if options.causal:
        stride = max(1, min(options.context - 1, options.fields.get("latents", options.context)))
    for side, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        if len(tokens) < options.context:
            raise ValueError(
                f"data: the {side} text of {corpus.name} has {len(tokens):,} bytes, less than one window: "
                f"give more text or a smaller --context (now {options.context:,})"
            )
    windows = Windows(corpus.train, length=options.context)
    return windows, Windows(corpus.validation, length=options.context, stride=stride)


def make_model(options: TrainOptions) -> LanguageModel:
    """The model that resolved `options` describe, with weights drawn from their seed.

    Raises:
        ValueError: fields that the configuration does not have or does not accept.
    """
    values = {"dim": options.dim, "depth": options.depth, "heads": options.heads, "causal": options.causal}
    fields = {**values, **options.fields, "model_type": options.model}
    if options.model == "linformer":
        fields.setdefault("max_length", options.context)
    config = config_class(options.model).from_dict(fields)
    torch.manual_seed(options.seed)
    limit = options.context if config.positions in ("learned", "axial") else None  # the others have no table to fill
    return LanguageModel(config, vocab_size=ByteTokenizer.vocab_size, max_length=limit, tie_embeddings=True)


def describe(options: TrainOptions, corpus: Corpus, model: LanguageModel) -> dict[str, Any]:
    """What `run.json` says from the start on: enough to tell whether two runs may be compared."""
    packages = ("subquadratic", "torch", "transformers", "accelerate", "numpy")
    return {
        "model": options.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer": ByteTokenizer.name,
        "corpus": {
            "name": corpus.name,
            "digest": corpus.digest,
            "split": corpus.split,
            "documents": list(corpus.documents),
            "train_tokens": len(corpus.train),
            "validation_tokens": len(corpus.validation),
        },
        "versions": {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "machine": {"cpu_threads": torch.get_num_threads(), "gpus": torch.cuda.device_count()},
    }


def references(corpus: Corpus) -> tuple[float, float]:
    """Bits per byte of the validation text by its byte frequencies, and by xz."""
    validation = corpus.validation[:REFERENCE_TOKENS]
    counts = np.bincount(validation)
    shares = counts[counts > 0] / len(validation)
    packed = lzma.compress(ByteTokenizer().decode_bytes(validation), preset=9)
    return float(-(shares * np.log2(shares)).sum()), 8 * len(packed) / len(validation)
