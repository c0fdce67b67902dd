"""The two models of a distillation: the original, and its copy with our attention; both as they stand in a folder of transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..attention import check, configure
from ..attention.kept import keeping

POOLINGS = ("mean", "cls", "max")
MODULES = "modules.json"  # of sentence-transformers


@dataclass
class Pair:
    """Teacher and student, and what is asked of both.

    Attributes:
        teacher, student: in evaluation mode; nothing of the teacher is trained.
        tokenizer: of both.
        attention: names of the modules that call our attention.
        causal: language models of the next token; otherwise encoders.
        pooling: what makes one vector of the tokens of a text: "mean", "cls" or "max".
        length: of the longest sequence that the model takes.
    """

    teacher: nn.Module
    student: nn.Module
    tokenizer: Any
    attention: list[str]
    causal: bool
    pooling: str
    length: int

    def encode(self, texts: list[str], length: int) -> dict[str, Tensor]:
        """Tokens of texts, cut at ``length`` and padded to the longest."""
        limit = min(length, self.length)
        encoded = self.tokenizer(texts, truncation=True, max_length=limit, padding=True, return_tensors="pt", return_token_type_ids=False)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) to (B, D)."""
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "max":
            return hidden.masked_fill(~mask.bool()[..., None], -torch.inf).amax(dim=1)
        weight = mask.to(hidden.dtype)[..., None]
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def open_pair(folder: Path, weights: Path | None, implementation: str, options: dict[str, Any]) -> Pair:
    """The model in a folder, twice.

    Args:
        folder: of the original.
        weights: of the copy, an earlier result; None: the original's.
        implementation: of the copy's attention.
        options: of it, as :func:`subquadratic.hf.attention.configure` takes them.

    Raises:
        ValueError: if transformers cannot open the folder, the model is an encoder-decoder or has weights that are NaN or infinite, or
            ``weights`` is of another model.
        NotImplementedError: if its attention cannot be replaced by this one.
    """
    place = folder / transformer_folder(folder)
    name = _class_name(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        teacher = getattr(transformers, name).from_pretrained(place, dtype=torch.float32, attn_implementation="sdpa").eval()
        student_folder = place if weights is None else weights / transformer_folder(weights)
        student, loaded = keeping(name).from_pretrained(
            student_folder, dtype=torch.float32, attn_implementation=implementation, output_loading_info=True
        )
        student.eval()
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint: transformers cannot open {place}: {error}") from error
    if getattr(teacher.config, "is_encoder_decoder", False):
        raise ValueError(f"checkpoint: {name} is an encoder-decoder, which is not supported: name an encoder or a language model")
    _check_finite("checkpoint", place, teacher)
    if weights is not None:
        _check_finite("weights", weights, student)
        if loaded["missing_keys"] or _shapes(student) != _shapes(teacher):
            raise ValueError(f"weights: {weights} is no copy of the model in {place}: its weights have other names or shapes")
        # its weights were trained with the projections that they were saved with
        options = {name: value for name, value in options.items() if name != "seed"}
    configure(student, **options)
    causal = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and name.endswith(("LMHeadModel", "ForCausalLM"))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(f"checkpoint: the tokenizer in {place} has neither a padding token nor one for the end of a text")
    tokenizer.padding_side = "right"
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    try:
        called = check(student).called
    except RuntimeError as error:
        raise NotImplementedError(f"checkpoint: {error}") from error
    return Pair(teacher, student, tokenizer, list(called), causal, pooling_of(folder), _length(teacher.config, tokenizer))


def _check_finite(option: str, folder: Path, model: nn.Module) -> None:
    """Raises ValueError for a model that gives nothing but NaN."""
    wrong = next((name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()), None)
    if wrong is not None:
        raise ValueError(f"{option}: {wrong} in {folder} holds NaN or infinity; name a model whose weights are numbers")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def without_bars() -> None:
    """No progress bars of transformers, which reads and writes these models in a moment."""
    transformers.utils.logging.disable_progress_bar()


def transformer_folder(folder: Path) -> str:
    """Where in a folder of sentence-transformers the transformer is; of other models, the folder itself."""
    entries = _json(folder / MODULES)
    first = entries[0] if isinstance(entries, list) and entries else {}
    return str(first.get("path", "")) if isinstance(first, dict) else ""


def pooling_of(folder: Path) -> str:
    """What a model of sentence-transformers makes of its tokens; the mean for every other."""
    for file in sorted(folder.glob("*/config.json")):
        config = _json(file)
        if isinstance(config, dict) and (said := config.get("pooling_mode")) in POOLINGS:
            return str(said)
        for name in POOLINGS:
            if isinstance(config, dict) and config.get(f"pooling_mode_{name}_token{'s' if name != 'cls' else ''}"):
                return name
    return "mean"


def _class_name(place: Path) -> str:
    named = (_json(place / "config.json") or {}).get("architectures") or []
    if named and hasattr(transformers, named[0]):
        return str(named[0])
    config = transformers.AutoConfig.from_pretrained(place)
    if type(config) not in AutoModel._model_mapping:
        raise ValueError(f"checkpoint: {place} is of a type that transformers has no model for, {config.model_type!r}")
    kind: Any = AutoModel._model_mapping[type(config)]
    return str((kind[0] if isinstance(kind, tuple) else kind).__name__)


def _length(config: Any, tokenizer: Any) -> int:
    said = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    said = [value - (2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0) for value in said if isinstance(value, int)]
    return min([*said, tokenizer.model_max_length, 1 << 20])


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
