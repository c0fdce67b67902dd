"""What `subq generate` and `subq fill` need of a folder: the model, its tokenizer, and what it does with text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.tokenizers.bytes import Tokenizer


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
        from ..data.tokenizers.values import reads_values

        return reads_values(self.tokenizer)

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device


def check(path: str, wanted: tuple[str, ...]) -> Path:
    """The folder of a model of text, integers or numbers that does what is wanted ("causal", "masked" or "pairs"), before PyTorch is
    loaded. A model of a published package is looked at by `load`.

    Raises:
        ValueError: it is not; the message says what it is for.
    """
    from ..evaluation.saved import find_saved, learned_task

    saved = find_saved(path)
    folder, kind = saved.folder, saved.kind
    if kind == "classes":
        raise ValueError(f"run: the model in {folder} is a classifier: it gives classes, not text; measure it with subq evaluate {folder}")
    task = learned_task(folder)
    if task is not None:
        what = f"the model in {folder} learned the task {task}, whose tokens are not text"
        raise ValueError(f"run: {what}; measure it with subq evaluate {folder}")
    if kind is not None:
        check_kind(folder, kind, wanted)
    return folder


def check_kind(folder: Path, kind: str, wanted: tuple[str, ...]) -> None:
    """Raises ValueError where a model does something else than what is wanted, with the verb that it is for."""
    if kind in wanted:
        return
    if kind == "masked":
        raise ValueError(
            f"run: the model in {folder} fills in masked tokens, and only a causal one can continue a text; "
            f'use subq fill {folder} "some [MASK] text"'
        )
    what = "continues texts" if kind == "causal" else "writes a target for a source"
    raise ValueError(f"run: the model in {folder} {what}, and only a bidirectional one can fill in; use subq generate {folder}")


def load(path: str, wanted: tuple[str, ...], *, tokenizer: Tokenizer | None = None, quantize: str | None = None) -> TextModel:
    """The model of text, integers or numbers in a folder, on the GPU if there is one, with its own tokenizer or the one given.
    ``quantize``: as in `subquadratic.load`.

    Raises:
        ValueError: there is none that does what is wanted; the message says what is there.
    """
    from ..data import load_tokenizer
    from ..evaluation.trained import Trained, load_model
    from ..evaluation.vocabulary import check_vocabulary

    check(path, wanted)
    folder, found = load_model(path, quantize=quantize)
    model, kind = _of_text(folder, found)
    check_kind(folder, kind, wanted)
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    check_vocabulary(Trained(folder, found, {}, {}), tokenizer, bytes_needed=0)
    return TextModel(folder, model, tokenizer, kind)


def _of_text(folder: Path, model: Any) -> tuple[Any, str]:
    """The model as generation takes it, and what it does with text."""
    from ..compat.continuation import Continuation
    from ..core.errors import NotCausalError
    from ..heads.encoder_decoder import EncoderDecoder
    from ..heads.language_model import LanguageModel

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
