"""Our models in transformers, and our attention in its models.

Once this is imported, `AutoModelForCausalLM.from_pretrained(folder)` opens what this package saved, and `attn_implementation` takes the
names of :mod:`subquadratic.hf.attention`.

The only room, besides `training`, that needs transformers: `pip install "subquadratic[hf]"`.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from . import attention
from .adapters import IA3_FEED_FORWARD, IA3_TARGETS, LORA_TARGETS, lora_targets
from .cache import SubquadraticCache
from .causal_lm import SubquadraticForCausalLM
from .classification import SubquadraticForSequenceClassification, SubquadraticForTokenClassification
from .configuration import SubquadraticConfig
from .masked_lm import SubquadraticForMaskedLM
from .model import SubquadraticModel
from .seq2seq_lm import SubquadraticForSeq2SeqLM

__all__ = [
    "IA3_FEED_FORWARD",
    "IA3_TARGETS",
    "LORA_TARGETS",
    "SubquadraticCache",
    "SubquadraticConfig",
    "SubquadraticForCausalLM",
    "SubquadraticForMaskedLM",
    "SubquadraticForSeq2SeqLM",
    "SubquadraticForSequenceClassification",
    "SubquadraticForTokenClassification",
    "SubquadraticModel",
    "attention",
    "lora_targets",
]

AutoConfig.register(SubquadraticConfig.model_type, SubquadraticConfig, exist_ok=True)
AutoModel.register(SubquadraticConfig, SubquadraticModel, exist_ok=True)
AutoModelForCausalLM.register(SubquadraticConfig, SubquadraticForCausalLM, exist_ok=True)
AutoModelForMaskedLM.register(SubquadraticConfig, SubquadraticForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(SubquadraticConfig, SubquadraticForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(SubquadraticConfig, SubquadraticForTokenClassification, exist_ok=True)
AutoModelForSeq2SeqLM.register(SubquadraticConfig, SubquadraticForSeq2SeqLM, exist_ok=True)

# The Trainer smooths labels of the token after each only for classes that it finds here; of all others it smooths the token itself's.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[SubquadraticConfig.model_type] = SubquadraticForCausalLM.__name__
