"""Which models become graphs: what is refused, and what is exported in a model's place."""

import copy
import tempfile
from typing import Any

import torch
from torch import nn

from .. import heads
from ..core.errors import require
from ..heads import EncoderDecoder, LanguageModel, SequenceClassifier

NOT_IN_ONNX = "eigenvalues of each sequence, for which ONNX has no operator"


def exported_model(model: nn.Module) -> Any:
    """The model whose graphs are written, in float32: ``model`` itself, or a copy of it.

    Args:
        model: of this package; or of transformers, as :mod:`subquadratic.hf` has it, whose weights are copied.

    Raises:
        ValueError: for a model that cannot be exported; says what can.
    """
    found: Any = _of_transformers(model)
    kinds = (LanguageModel, SequenceClassifier, EncoderDecoder)
    require(
        isinstance(found, kinds),
        "model must be a LanguageModel, a SequenceClassifier or an EncoderDecoder, or a model of transformers that was saved as one "
        f"(SubquadraticForCausalLM), got {type(model).__name__}",
    )
    if isinstance(found, EncoderDecoder):
        require(not found.encoder_config.causal, "an encoder that is causal is not exported to ONNX: build it with causal=False")
        _check_backbone(found.encoder_config)
        _check_backbone(found.decoder_config)
    else:
        crossed = getattr(found.config, "cross_attention", False)
        require(not crossed, "a decoder with cross_attention=True is exported with its encoder: give the EncoderDecoder that it is part of")
        _check_backbone(found.config)
    return found if all(one.dtype is torch.float32 for one in found.parameters()) else copy.deepcopy(found).float()


def _check_backbone(config: Any) -> None:
    require(
        not config.aligned_right,
        "a PerceiverAR is not exported to ONNX, since the latents that it computes follow from numbers of tokens and not from shapes: "
        "run it with PyTorch (generate, subq serve), or train another model for ONNX",
    )
    options = (("estimator", "dense"), ("balance", "full"))
    asked = [f'{name}="{value}"' for name, value in options if getattr(config, name, None) == value]
    require(
        config.causal or not asked,
        f"a bidirectional {type(config).__name__.removesuffix('Config')} with {' and '.join(asked)} computes {NOT_IN_ONNX}: "
        'train it with estimator="optimal" and balance="channel", which are exported',
    )


def _of_transformers(model: nn.Module) -> nn.Module:
    """The head of ours that a model of transformers is saved as; other modules as they are."""
    saved: Any = getattr(model, "saved_class", None)
    if saved is None:
        return model
    require(
        not hasattr(model, "merge_and_unload") and not getattr(model, "_hf_peft_config_loaded", False),
        f"model has adapters of PEFT, got {type(model).__name__}: export what merge_and_unload() gives",
    )
    whole: Any = model
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        return getattr(heads, saved).from_pretrained(folder)
