"""What `subq generate` and `subq fill` need of a folder: the model, its tokenizer, and what it does with text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TextModel:
    """`kind` is "causal" (goes on with a text), "masked" (fills one in) or "pairs" (reads a source, writes a target)."""

    folder: Path
    model: Any
    tokenizer: Any
    kind: str

    @property
    def values(self) -> bool:
        """Whether its tokens are integers or numbers, and no text."""
        from ..data.value_tokenizers import reads_values

        return reads_values(self.tokenizer)

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device


def load(path: str, *, tokens: int | None = None) -> TextModel:
    """The model of text in a folder, or of integers or numbers, on the GPU if there is one. `tokens` says that it is one of so many
    integers, where the folder does not.

    Raises:
        ValueError: there is none; the message says what is there.
    """
    from ..evaluation.trained import Trained, learned_task, load_model
    from ..evaluation.vocabulary import check_vocabulary, model_tokenizer

    folder, found = load_model(path)
    model, kind = _of_text(folder, found)
    task = learned_task(folder)
    if task is not None:
        what = f"the model in {folder} learned the task {task}, whose tokens are no text"
        raise ValueError(f"run: {what}; measure it with subq evaluate {folder}")
    tokenizer = model_tokenizer(folder, tokens=tokens)
    check_vocabulary(Trained(folder, found, {}, {}), tokenizer, bytes_needed=0)
    return TextModel(folder, model, tokenizer, kind)


def _of_text(folder: Path, model: Any) -> tuple[Any, str]:
    """The model as generation takes it, and what it does with text."""
    from ..compat.continuation import Continuation
    from ..models.encoder_decoder import EncoderDecoder
    from ..models.language_model import LanguageModel
    from ..models.sequence_classifier import SequenceClassifier
    from ..ops.errors import NotCausalError

    if isinstance(model, SequenceClassifier):
        raise ValueError(f"run: the model in {folder} is a classifier: it gives classes, not text; measure it with subq evaluate {folder}")
    if isinstance(model, EncoderDecoder):
        return model, "pairs"
    if isinstance(model, LanguageModel):
        return model, "causal" if model.config.causal else "masked"
    try:
        return Continuation(model), "causal"
    except NotCausalError as error:
        name = type(model).__name__
        raise ValueError(
            f"run: the {name} in {folder} is a bidirectional model of a published package: it cannot continue a text, and no token can be "
            "hidden from it; use it from Python, with subquadratic.LanguageModel.from_pretrained"
        ) from error
