"""What `subq generate` writes by, at once or line by line: the steps of new tokens, and the text that they are."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .generate_options import GenerateOptions
from .text_io import notify
from .value_io import Levels, unwritten

if TYPE_CHECKING:
    from ..generation.text import RowText
    from .text_model import TextModel

NEW_TOKENS = 400
TEMPERATURE = 0.8  # of text and integers: closer to what is likely than what was learned, which forecasts must not be
LONG_PROMPT = 50_000  # tokens, from which on a terminal says why there is no text yet


def start(loaded: TextModel, options: GenerateOptions, prompt: bytes, *, seed: int | None = None) -> Iterator[Any]:
    """Steps of new tokens and their log-probabilities, (S,) each, after a prompt.

    Raises:
        ValueError: the prompt does not fit the model.
    """
    import torch

    from ..generation.text import known_end, prompt_tokens

    model, tokenizer = loaded.model, loaded.tokenizer
    pairs = loaded.kind == "pairs"
    _check_samples(loaded, options.samples)
    if pairs and not prompt:
        raise ValueError("prompt is missing: it is the source text that this encoder-decoder reads")
    try:
        tokens = prompt_tokens(tokenizer, prompt, model.embedding.vocab_size if pairs else model.vocab_size)[None].to(loaded.device)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
    if tokens.shape[1] >= LONG_PROMPT and sys.stderr is not None and sys.stderr.isatty():
        notify(f"reading a prompt of {tokens.shape[1]:,} tokens\n")
    inputs = (tokens, torch.tensor([[target_start(loaded)]], device=loaded.device)) if pairs else (tokens,)
    generator = torch.Generator(device=loaded.device).manual_seed(new_seed(options) if seed is None else seed)
    return model.stream(
        *inputs,
        max_new_tokens=options.max_new_tokens or fitting(loaded, inputs[-1].shape[1]),
        samples=options.samples,
        eos_token=known_end(tokenizer, (model.decoder if pairs else model).vocab_size),
        pad_token=tokenizer.pad_token,
        stop=options.stops,
        tokenizer=tokenizer,
        return_log_probs=True,
        generator=generator,
        **sampling_of(loaded, options),
    )


def sampling_of(loaded: TextModel, options: GenerateOptions) -> dict[str, Any]:
    """How the model's tokens are chosen, as keywords of `subquadratic.generation.Sampling`."""
    from ..data import NumberTokenizer

    usual = 1.0 if isinstance(loaded.tokenizer, NumberTokenizer) else TEMPERATURE
    return {"temperature": usual, **options.sampling, "banned": unwritten(loaded.folder, loaded.tokenizer)}


def _check_samples(loaded: TextModel, samples: int) -> None:
    """Raises ValueError where not even the probabilities of one token of each sample fit into memory."""
    from ..costs.memory import available_memory
    from ..evaluation.report import size

    model = loaded.model.decoder if loaded.kind == "pairs" else loaded.model
    least, room = 4 * samples * model.vocab_size, available_memory(str(loaded.device))
    if least > room:
        raise ValueError(f"samples: {samples:,} at once need more than {size(least)}, and {size(room)} are available; ask for fewer")


def target_start(loaded: TextModel) -> int:
    """The token that begins a target.

    Raises:
        ValueError: the model does not know it.
    """
    first = loaded.tokenizer.bos_token
    if first >= loaded.model.decoder.vocab_size:
        raise ValueError(
            f"run: the model in {loaded.folder} has {loaded.model.decoder.vocab_size} target tokens, without {first}, which begins a target"
        )
    return first


def fitting(loaded: TextModel, length: int) -> int:
    """How many new tokens to write where nobody says: what fits after `length` tokens, at most 400."""
    limit = getattr(loaded.model.decoder if loaded.kind == "pairs" else loaded.model, "max_length", None)
    return NEW_TOKENS if limit is None else max(1, min(NEW_TOKENS, limit - length + 1))


def new_seed(options: GenerateOptions) -> int:
    """The seed asked for, or a new one."""
    return random.SystemRandom().getrandbits(63) if options.seed is None else options.seed


def row_text(loaded: TextModel, options: GenerateOptions, *, first: bool, level: float | None = None) -> RowText:
    """What turns the tokens of one row into text; changes into the numbers that they lead to from `level`."""
    from ..generation.text import RowText

    tokenizer = loaded.tokenizer if level is None else Levels(loaded.tokenizer, level)
    return RowText(tokenizer, stop=options.stops, eos_token=loaded.tokenizer.eos_token, first=first)
