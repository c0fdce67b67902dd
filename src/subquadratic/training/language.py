"""Language modelling: windows of a text, or a synthetic task whose items say which tokens can be known."""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data import Corpus, Windows, load_corpus, load_tokenizer
from ..data.sources import STDLIB
from ..data.tokenizer import Tokenizer
from ..evaluation.trained import validation_text
from ..evaluation.windows import TextWindows, scored_losses, stacked
from ..models.language_model import LanguageModel
from . import samples
from .configuration import backbone_config, length_limit
from .options import TrainOptions
from .problem import Batch, Problem, Score, Sums
from .setup import Progress, data_facts, task_of

MASK_PROBABILITY = 0.15  # of plain windows
SMALL_TEXT = 20_000_000  # tokens
OFFSETS = 8
REFERENCE_TOKENS = 2_000_000  # of the validation text, for xz and byte frequencies


def text_problem(options: TrainOptions, progress: Progress = None) -> Problem:
    """Next or masked tokens of a corpus.

    Raises:
        ValueError: the corpus cannot be used, or either side of it is shorter than one window.
    """
    tokenizer = load_tokenizer(options.tokenizer)
    corpus = load_corpus(
        options.data,
        tokenizer=tokenizer,
        text=options.text,
        quotes=options.quotes,
        skip_bad_rows=options.skip_bad_rows,
        binary=options.binary,
        progress=progress,
    )
    train, validation = make_windows(corpus, options)
    shown = Windows(corpus.validation, length=train.length)
    per_byte = len(corpus.train) / max(corpus.train_bytes, 1)
    return Problem(
        kind="language",
        text=corpus.describe(),
        facts=corpus_facts(corpus),
        train=train,
        validation=validation,
        collate=_stack,
        build=_builder(options, tokenizer.vocab_size),
        sums=_summing(tokenizer),
        headline=_headline(causal=bool(options.causal)),
        sample=lambda model, seed: samples.of_text(model, shown, tokenizer, seed=seed),
        tokens=train.length,
        size=len(corpus.train),
        bits=(per_byte / math.log(2), "bits/byte"),
        references=lambda: references(corpus),
        save_extra=tokenizer.save,
        closing=partial(_closing, options),
    )


def task_problem(options: TrainOptions) -> Problem:
    """A synthetic task of tokens; what its generator does not determine is read and not scored.

    Raises:
        ValueError: an unknown task or an option it does not have.
    """
    task, facts = task_of(options)
    hidden = {} if options.causal else {"mask_probability": 1.0}  # as in validation: everything that can be known is hidden
    return Problem(
        kind="language",
        text=task.describe(),
        facts=facts,
        train=task.train,
        validation=task.validation,
        collate=stacked,
        build=_builder(options, task.vocab_size),
        sums=_summing(None),
        loss=lambda model, batch: model.loss(**batch, **hidden),
        count=lambda model, batch: model.count_predictions(**batch, **hidden),
        headline=lambda score: f"{score.accuracy:.2%} right of {score.predicted:,} tokens that can be known, loss {score.loss:.4f}",
        sample=lambda model, seed: samples.of_task(model, task.validation, task.vocabulary),
        tokens=task.length,
        size=len(task.train) * task.length,
    )


def _closing(options: TrainOptions, folder: str) -> str:
    if not options.causal:
        return f'subq fill {folder} "some [MASK] text"'
    return f"subq generate {folder}" + (' --prompt "def "' if options.data in (None, STDLIB) else "")


def make_windows(corpus: Corpus, options: TrainOptions) -> tuple[Windows, TextWindows]:
    """Windows to train on, and windows to validate on, in which each token is predicted once.

    Windows of a small text, which a run reads several times, begin at eight places where those of a large one begin at one: the
    second time a token is read it stands elsewhere in its window.

    Raises:
        ValueError: either side of the corpus is shorter than one window.
    """
    assert options.context is not None
    for side, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        if len(tokens) < options.context:
            raise ValueError(
                f"data: the {side} side of {corpus.name} has {len(tokens):,} tokens, less than one window: "
                f"give more text or a smaller --context (now {options.context:,})"
            )
    places = OFFSETS if len(corpus.train) <= SMALL_TEXT else 1
    windows = Windows(corpus.train, length=options.context, stride=max(1, options.context // places))
    text = validation_text(corpus).after(corpus.tokenizer.eos_token)
    advance = options.context
    if options.causal:
        advance = max(1, min(options.context - 1, getattr(backbone_config(options), "latents", options.context)))
    return windows, TextWindows(text, length=options.context, advance=advance, masked=not options.causal, seed=options.seed)


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What `run.json` says of a corpus."""
    sizes = {"train_tokens": len(corpus.train), "validation_tokens": len(corpus.validation)}
    return data_facts(corpus, documents=list(corpus.documents), **sizes)


def references(corpus: Corpus) -> dict[str, float]:
    """Bits per byte of the validation text by its byte frequencies, and by xz."""
    text = corpus.tokenizer.decode_bytes(corpus.validation[:REFERENCE_TOKENS])
    counts = np.bincount(np.frombuffer(text, dtype=np.uint8))
    shares = counts[counts > 0] / max(len(text), 1)
    return {
        "unigram_bits_per_byte": float(-(shares * np.log2(shares)).sum()),
        "xz_bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / max(len(text), 1),
    }


def _builder(options: TrainOptions, vocab_size: int) -> Callable[[], LanguageModel]:
    config = backbone_config(options)
    limit = length_limit(config, options.context)
    return lambda: LanguageModel(config, vocab_size=vocab_size, max_length=limit, tie_embeddings=True)


def _summing(tokenizer: Tokenizer | None) -> Callable[[Any, Batch, torch.Generator], Sums]:
    sizes = None if tokenizer is None else torch.from_numpy(tokenizer.byte_lengths())

    def sums(model: Any, batch: Batch, generator: torch.Generator) -> Sums:
        tokens, scored, masked = batch["tokens"], batch.get("scored"), batch.get("masked")
        if scored is not None:
            hidden = scored if masked is None and not model.config.causal else masked  # of a task, whatever can be known
            nats, right, predicted, _ = scored_losses(model, tokens, scored, masked=hidden)
        else:
            drawn = {} if model.config.causal else {"masked": torch.rand(tokens.shape, generator=generator) < MASK_PROBABILITY}
            nats, right, predicted = model.token_losses(tokens, **{name: places.to(tokens.device) for name, places in drawn.items()})
        size = 0 if sizes is None else int(sizes[predicted.cpu()].sum())
        return Sums(float(nats.double().sum()), int(right.sum()), len(predicted), size)

    return sums


def _headline(*, causal: bool) -> Callable[[Score], str]:
    def headline(score: Score) -> str:
        what = "next tokens" if causal else "masked tokens"
        rate = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.3f} bits/byte, "
        return f"{rate}{score.accuracy:.1%} of {score.predicted:,} {what} right"

    return headline


def _stack(items: list[Any]) -> Batch:
    """Of windows to train on, which are tensors, or to validate on."""
    return stacked([item if isinstance(item, dict) else {"tokens": item} for item in items])
