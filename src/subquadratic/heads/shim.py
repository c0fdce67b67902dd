"""What lets transformers open a saved model: keys of config.json that name its class, and a file of one line that imports it.

transformers is not needed here: a model saved by this package alone opens with ``AutoModelForCausalLM.from_pretrained(folder,
trust_remote_code=True)``, also in a process that never imported this package.
"""

from __future__ import annotations

from typing import Any

MODEL_TYPE = "subquadratic"
SHIM = "modeling_subquadratic.py"
CAUSAL, MASKED = "SubquadraticForCausalLM", "SubquadraticForMaskedLM"
CLASSES, TOKENS, PAIRS = "SubquadraticForSequenceClassification", "SubquadraticForTokenClassification", "SubquadraticForSeq2SeqLM"
CONFIGURATION, BASE = "SubquadraticConfig", "SubquadraticModel"
AUTO = {
    "AutoModelForCausalLM": CAUSAL,
    "AutoModelForMaskedLM": MASKED,
    "AutoModelForSequenceClassification": CLASSES,
    "AutoModelForTokenClassification": TOKENS,
    "AutoModelForSeq2SeqLM": PAIRS,
}
TEXT = f"""\
from subquadratic.hf import {CONFIGURATION}, {BASE}, {", ".join(AUTO.values())}  # noqa: F401  (pip install subquadratic)
"""


def auto_map(names: set[str]) -> dict[str, str]:
    """The ``auto_map`` of a model of one of these classes."""
    module = SHIM.removesuffix(".py")
    found = {auto: f"{module}.{name}" for auto, name in AUTO.items() if name in names}
    return {"AutoConfig": f"{module}.{CONFIGURATION}", "AutoModel": f"{module}.{BASE}"} | found


def hub_keys(class_name: str, *, causal: bool) -> dict[str, Any]:
    """Keys of config.json for one of our heads, by its class; none for what transformers cannot open."""
    direction = CAUSAL if causal else MASKED
    names = {"LanguageModel": direction, "SequenceClassifier": CLASSES, "EncoderDecoder": PAIRS}
    if class_name not in names:
        return {}
    fitting = {names[class_name]} | (set() if class_name == "EncoderDecoder" else {direction, CLASSES, TOKENS})
    return {"model_type": MODEL_TYPE, "architectures": [names[class_name]], "auto_map": auto_map(fitting)}
