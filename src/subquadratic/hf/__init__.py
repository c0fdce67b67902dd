"""Our models in transformers: `AutoModelForCausalLM.from_pretrained(folder)` opens what this package saved, once this is imported.

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

from .cache import SubquadraticCache
from .causal_lm import SubquadraticForCausalLM
from .classification import SubquadraticForSequenceClassification, SubquadraticForTokenClassification
from .configuration import SubquadraticConfig
from .masked_lm import SubquadraticForMaskedLM
from .model import SubquadraticModel
from .seq2seq_lm import SubquadraticForSeq2SeqLM

__all__ = [
    "SubquadraticCache",
    "SubquadraticConfig",
    "SubquadraticForCausalLM",
    "SubquadraticForMaskedLM",
    "SubquadraticForSeq2SeqLM",
    "SubquadraticForSequenceClassification",
    "SubquadraticForTokenClassification",
    "SubquadraticModel",
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
