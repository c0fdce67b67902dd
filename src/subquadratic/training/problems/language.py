"""Language modelling: windows of a text, of integers or of numbers, or a synthetic task whose items say which tokens can be known."""

from __future__ import annotations

import lzma
import math
import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data import Binning, Corpus, IntegerTokenizer, NumberTokenizer, Windows, load_corpus, load_tokenizer
from ...data.tokenizers.bytes import Tokenizer
from ...data.tokenizers.values import ValueTokenizer, reads_values
from ...evaluation.material import validation_text
from ...evaluation.windows import TextWindows, scored_losses, stacked
from ...heads.language_model import LanguageModel
from ...models.config import BackboneConfig
from .. import snippets
from ..configuration import backbone_config, length_limit
from ..options import TrainOptions
from . import samples
from .problem import Batch, Problem, Score, Sums
from .setup import Progress, data_facts, task_of

MASK_PROBABILITY = 0.15  # of plain windows
SMALL_TEXT = 20_000_000  # tokens
OFFSETS = 8
REFERENCE_TOKENS = 2_000_000  # of the validation text, for xz and byte frequencies


def read_corpus(options: TrainOptions, progress: Progress = None) -> Corpus:
    """The text, integers or numbers that options name.

    Raises:
        ValueError: they cannot be used.
    """
    return load_corpus(
        options.data,
        validation=options.validation_data,
        tokenizer=_tokenizer(options),
        text=options.text,
        quotes=options.quotes,
        skip_bad_rows=options.skip_bad_rows,
        binary=options.binary,
        headers=options.headers,
        column=options.column,
        dtype=options.dtype,
        progress=progress,
    )


def text_problem(options: TrainOptions, corpus: Corpus) -> Problem:
    """Next or masked tokens of a corpus.

    Raises:
        ValueError: either side of it is shorter than one window.
    """
    tokenizer, config = corpus.tokenizer, backbone_config(options)
    train, validation = make_windows(corpus, options, config)
    shown = Windows(corpus.validation, length=train.length)
    unit = "value" if isinstance(tokenizer, NumberTokenizer) else "token" if reads_values(tokenizer) else "byte"
    per_unit = len(corpus.train) / max(corpus.train_bytes, 1) if unit == "byte" else 1.0
    return Problem(
        kind="language",
        text=corpus.describe(),
        facts=corpus_facts(corpus),
        train=train,
        validation=validation,
        collate=_stack,
        build=_builder(config, options, tokenizer.vocab_size),
        sums=_summing(tokenizer),
        headline=_headline(causal=bool(options.causal), unit=unit),
        sample=lambda model, seed: samples.of_text(model, shown, tokenizer, seed=seed),
        tokens=train.length,
        size=len(corpus.train),
        uniform=math.log(tokenizer.size if isinstance(tokenizer, ValueTokenizer) else tokenizer.vocab_size),
        snippet=snippets.of_corpus(options, corpus),
        bits=(per_unit / math.log(2), f"bits/{unit}"),
        references=lambda: references(corpus),
        save_extra=tokenizer.save,
        closing=partial(_closing, options, tokenizer),
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
        build=_builder(backbone_config(options), options, task.vocab_size),
        sums=_summing(None),
        loss=lambda model, batch: model.loss(**batch, **hidden),
        count=lambda model, batch: model.count_predictions(**batch, **hidden),
        headline=lambda score: f"{score.accuracy:.2%} right of {score.predicted:,} tokens that can be known, loss {score.loss:.4f}",
        sample=lambda model, seed: samples.of_task(model, task.validation, task.vocabulary),
        tokens=task.length,
        size=len(task.train) * task.length,
        uniform=math.log(task.vocab_size),
        snippet=snippets.of_task(snippets.SOLVES, options),
    )


def _tokenizer(options: TrainOptions) -> Any:
    """What reads the data."""
    if options.tokens is not None:
        return IntegerTokenizer(options.tokens)
    if options.bins is not None:
        return Binning(bins=options.bins, binning=options.binning, difference=options.difference)
    tokenizer = load_tokenizer(options.tokenizer)
    if reads_values(tokenizer):
        raise ValueError(f"tokenizer: {options.tokenizer} reads {tokenizer.name}, and no text: give --tokens or --bins in its place")
    return tokenizer


def _closing(options: TrainOptions, tokenizer: Tokenizer, folder: str) -> str:
    if not options.causal:
        return f'subq fill {folder} "{"1 [MASK] 3" if reads_values(tokenizer) else "some [MASK] text"}"'
    if isinstance(tokenizer, NumberTokenizer):
        known = shlex.quote(options.data or "") if options.data != "-" else "new.npy"
        return f"subq generate {folder} --prompt_file {known} --max_new_tokens 24 --samples 100 --temperature 1 --out forecast.npy"
    if reads_values(tokenizer):
        return f"subq generate {folder} --max_new_tokens 200 --out new.npy"
    return f"subq generate {folder}" + (f' --prompt "{snippets.PYTHON}"' if snippets.writes_python(options) else "")


def make_windows(corpus: Corpus, options: TrainOptions, config: BackboneConfig) -> tuple[Windows, TextWindows]:
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
        advance = max(1, min(options.context - 1, getattr(config, "latents", options.context)))
    return windows, TextWindows(text, length=options.context, advance=advance, masked=not options.causal, seed=options.seed)


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What `run.json` says of a corpus."""
    sizes = {"train_tokens": len(corpus.train), "validation_tokens": len(corpus.validation)}
    return data_facts(corpus, documents=list(corpus.documents), **sizes)


def references(corpus: Corpus) -> dict[str, float]:
    """Bits per byte of the validation text by its byte frequencies, and by xz; of integers and numbers, bits per token."""
    return token_references(corpus.validation[:REFERENCE_TOKENS], corpus.tokenizer)


def token_references(tokens: NDArray[Any], tokenizer: Tokenizer) -> dict[str, float]:
    """The same of any tokens, in their order."""
    unit = "token" if reads_values(tokenizer) else "byte"
    if unit == "token":
        symbols = tokens.astype(np.uint8) if tokenizer.vocab_size <= 256 else tokens
    else:
        symbols = np.frombuffer(tokenizer.decode_bytes(tokens), dtype=np.uint8)
    content = symbols.tobytes()
    # As `xz -9`, which makes room for 64 MB of what came before, however little there is.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(max(len(content), 1 << 12), 1 << 26)}]
    packed = lzma.compress(content, filters=filters)
    return {f"unigram_bits_per_{unit}": _entropy(symbols), f"xz_bits_per_{unit}": 8 * len(packed) / max(len(symbols), 1)}


def _entropy(tokens: NDArray[Any]) -> float:
    """In bits per token, by their frequencies."""
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / max(len(tokens), 1)
    return float((shares * -np.log2(shares)).sum()) + 0.0  # no -0.00


def _builder(config: BackboneConfig, options: TrainOptions, vocab_size: int) -> Callable[[], LanguageModel]:
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


def _headline(*, causal: bool, unit: str) -> Callable[[Score], str]:
    def headline(score: Score) -> str:
        what = f"{'next' if causal else 'masked'} {'values' if unit == 'value' else 'tokens'}"
        bits = score.loss / math.log(2) if unit != "byte" else score.bits_per_byte
        rate = "" if bits is None else f"{bits:.3f} bits/{unit}, "
        return f"{rate}{score.accuracy:.1%} of {score.predicted:,} {what} right"

    return headline


def _stack(items: list[Any]) -> Batch:
    """Of windows to train on, which are tensors, or to validate on."""
    return stacked([item if isinstance(item, dict) else {"tokens": item} for item in items])
