"""Which tokenizer belongs to a trained model, and whether one fits it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import IntegerTokenizer, load_tokenizer
from ..data.tokenizers.bytes import BYTES, Tokenizer

if TYPE_CHECKING:
    from .trained import Trained


def model_tokenizer(folder: Path, *, tokenizer: str | None = None, tokens: int | None = None) -> Tokenizer:
    """That of a model, or the one named; integers below `tokens`, where a saved model does not say that it reads any.

    Raises:
        ValueError: the model says something else.
    """
    if tokens is None:
        return load_tokenizer(tokenizer if tokenizer is not None else folder)
    if tokenizer is not None:
        raise ValueError("tokens says that the data are integers, and tokenizer that they are text: leave out one of the two")
    wanted, own = IntegerTokenizer(tokens), load_tokenizer(folder)
    if own.digest != wanted.digest and (own.name != BYTES or (folder / "run.yaml").is_file()):
        raise ValueError(f"tokens: the model in {folder} reads {own.name}, and not {wanted.name}; leave --tokens out")
    return wanted


def check_vocabulary(run: Trained, tokenizer: Tokenizer, *, bytes_needed: int = 256) -> None:
    """Bytes and integers without their special tokens are a vocabulary too; whether a text needs more is told when it is read.

    Raises:
        ValueError: the model knows fewer tokens than the tokenizer has.
    """
    needed = tokenizer.size if isinstance(tokenizer, IntegerTokenizer) else tokenizer.vocab_size
    wanted = bytes_needed if tokenizer.name == BYTES else needed
    has = _vocab_size(run.model)
    if wanted > has:
        raise ValueError(
            f"tokenizer: {tokenizer.name} has {tokenizer.vocab_size:,} tokens, the model in {run.folder} knows {has:,}: "
            "give the one it was trained with"
        )


def check_tokenizer(run: Trained, tokenizer: Tokenizer) -> None:
    """Raises ValueError for a tokenizer that is not the one of the training, or has more tokens than the model."""
    check_vocabulary(run, tokenizer)
    corpus = run.facts.get("corpus")
    trained = corpus.get("tokenizer_digest") if isinstance(corpus, dict) else None
    if trained is not None and trained != tokenizer.digest:
        raise ValueError(
            f"tokenizer: {tokenizer.name} is not the one that {run.folder} was trained with ({corpus.get('tokenizer')}), "  # type: ignore[union-attr]
            "so its tokens mean nothing to the model"
        )


def _vocab_size(model: Any) -> int:
    if hasattr(model, "vocab_size"):
        return int(model.vocab_size)
    embedding = getattr(model, "embedding", None) or getattr(model, "token_emb", None)
    if embedding is None:
        raise ValueError(f"run: {type(model).__name__} has no token embedding, so there is no text to measure it on")
    return int(getattr(embedding, "vocab_size", None) or embedding.weight.shape[0])
