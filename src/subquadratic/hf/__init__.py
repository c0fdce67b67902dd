"""Our models in transformers: `AutoModelForCausalLM.from_pretrained(folder)` opens what this package saved, once this is imported.

The only room, besides `training`, that needs transformers: `pip install "subquadratic[hf]"`.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .cache import SubquadraticCache
from .causal_lm import SubquadraticForCausalLM
from .configuration import SubquadraticConfig
from .model import SubquadraticModel

__all__ = ["SubquadraticCache", "SubquadraticConfig", "SubquadraticForCausalLM", "SubquadraticModel"]

AutoConfig.register(SubquadraticConfig.model_type, SubquadraticConfig, exist_ok=True)
AutoModel.register(SubquadraticConfig, SubquadraticModel, exist_ok=True)
AutoModelForCausalLM.register(SubquadraticConfig, SubquadraticForCausalLM, exist_ok=True)
