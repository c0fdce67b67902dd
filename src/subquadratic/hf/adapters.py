"""What PEFT has to know of our models: which maps get an adapter where nobody says, and that prefix tuning has nothing to write into."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from torch import nn

LORA_TARGETS = ("query", "value", "key_value", "transform")
"""LoRA's where ``target_modules`` is not given: query and value maps, as in the paper (Hu et al., 2021, section 4.2), by the names that our
backbones have for them: a Feedback Transformer's ``key_value``, the ``transform`` that Fastformer has in the value's place."""
IA3_TARGETS = ("key", "value", "key_value", "transform", "contract")
"""(IA)³'s: keys, values, and what the feed-forward layers' second map reads (Liu et al., 2022, section 3.3)."""
IA3_FEED_FORWARD = ("contract",)
MODEL_TYPE = "subquadratic"


def lora_targets(model: nn.Module) -> list[str]:
    """The names in ``LORA_TARGETS`` that a model has: ``LoraConfig(target_modules=lora_targets(model))``, which is also what PEFT takes
    without ``target_modules``. For all linear maps but the output map, ``target_modules="all-linear"``.

    Raises:
        ValueError: if it has none.
    """
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = [name for name in LORA_TARGETS if name in found]
    if not names:
        raise ValueError(
            f"model has no maps called {', '.join(LORA_TARGETS)}: it must be a model of subquadratic, got {type(model).__name__}"
        )
    return names


def register() -> None:
    """Tell PEFT, once it is there. It knows models by their type; there is one type for all of ours."""
    constants: Any = sys.modules.get("peft.utils.constants")
    if constants is None or MODEL_TYPE in constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return
    like_lora = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get("bert")
    for name, mapping in vars(constants).items():  # of AdaLoRA, VeRA, OFT ... too, where they adapt what LoRA does
        if name.endswith("_TARGET_MODULES_MAPPING") and mapping.get("bert") == like_lora:
            mapping[MODEL_TYPE] = list(LORA_TARGETS)
    constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[MODEL_TYPE] = list(IA3_TARGETS)
    constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[MODEL_TYPE] = list(IA3_FEED_FORWARD)
    constants.TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING[MODEL_TYPE] = _refuse_prefix
    if "table" not in constants.EMBEDDING_LAYER_NAMES:
        constants.EMBEDDING_LAYER_NAMES.append("table")  # what we call embed_tokens: PEFT warns of an adapter on it where it is tied


def _refuse_prefix(past_key_values: Any) -> NoReturn:
    raise ValueError(
        "prefix tuning puts keys and values before those of the prompt, and a subquadratic model keeps a state instead: "
        "use PromptTuningConfig or PromptEncoderConfig, which put vectors before the tokens, or LoRA"
    )
