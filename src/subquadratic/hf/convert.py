"""`subq convert RUN --to huggingface`: a folder that transformers opens with everything that it looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import an
from ..data.tokenizers.loading import load_tokenizer
from ..data.tokenizers.values import reads_values
from ..heads.files import CONFIG, read_config
from .causal_lm import SubquadraticForCausalLM
from .classification import SubquadraticForSequenceClassification
from .masked_lm import SubquadraticForMaskedLM
from .seq2seq_lm import SubquadraticForSeq2SeqLM
from .tokenizers import save_tokenizer, stop_tokens

ROLES = ("pad", "bos", "eos", "mask")


def convert(folder: Path, out: Path) -> str:
    """Write the model of a run, or of any folder that ``save_pretrained`` wrote, with its tokenizer and the ids of special tokens.

    Returns:
        The name of the class that opens it, as "AutoModelForCausalLM".

    Raises:
        FileNotFoundError, ValueError: there is no model, or one that transformers cannot open (of a published package).
        FileExistsError: ``out`` holds files.
    """
    content = read_config(folder)
    kind, auto = _class_of(str(content["class"]), content, folder)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} exists and is not an empty folder: choose another")
    model, tokenizer = kind.from_pretrained(folder), load_tokenizer(folder)
    if reads_values(tokenizer):
        _take_ids(model, {role: getattr(tokenizer, f"{role}_token") for role in ROLES})
    else:
        stock = save_tokenizer(
            tokenizer,
            out,
            vocab_size=model.config.vocab_size,
            max_length=model.config.position_limit,
            padding_side="left" if kind is SubquadraticForCausalLM else "right",
            first="bos" if kind is SubquadraticForSeq2SeqLM else "eos",
            chat=kind in (SubquadraticForCausalLM, SubquadraticForSeq2SeqLM),
        )
        _take_ids(model, {role: getattr(stock, f"{role}_token_id") for role in ROLES})
        if kind is SubquadraticForCausalLM:
            model.generation_config.eos_token_id = stop_tokens(stock)
    model.save_pretrained(out)
    return auto


def _class_of(name: str, content: dict[str, Any], folder: Path) -> tuple[Any, str]:
    if name == "LanguageModel":
        causal = content["config"].get("causal", True)
        return (SubquadraticForCausalLM, "AutoModelForCausalLM") if causal else (SubquadraticForMaskedLM, "AutoModelForMaskedLM")
    if name == "SequenceClassifier":
        return SubquadraticForSequenceClassification, "AutoModelForSequenceClassification"
    if name == "EncoderDecoder":
        return SubquadraticForSeq2SeqLM, "AutoModelForSeq2SeqLM"
    raise ValueError(f"{folder / CONFIG} describes {an(name)}, which transformers cannot open: only models of this package's own heads")


def _take_ids(model: Any, ids: dict[str, int]) -> None:
    """The ids of special tokens. One that a model has no vector for ends or begins nothing; padding and [MASK] need none."""
    config, known = model.config, model.config.vocab_size
    places = [config, *([model.generation_config] if model.can_generate() else [])]
    for role in ("pad", "bos", "eos"):
        if role == "pad" or ids[role] < known:
            for place in places:
                setattr(place, f"{role}_token_id", ids[role])
    if not config.causal:
        config.mask_token_id = ids["mask"]
    if config.is_encoder_decoder and ids["bos"] < known:
        for place in places:
            place.decoder_start_token_id = ids["bos"]  # which begins the targets that it was trained on
