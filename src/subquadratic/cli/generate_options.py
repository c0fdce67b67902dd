"""The options of `subq generate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .text_io import to_bytes


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Continue a prompt with a trained model; the text appears as it is written."""

    run: str
    """Run folder of a model of text, or any folder that save_pretrained or subq convert wrote."""
    prompt: str | None = None
    """Text to continue; - reads it from standard input. Default: the start of a document. For an encoder-decoder it is the source; for a
    model of integers or numbers, those, separated by spaces."""
    prompt_file: str | None = None
    """File with the prompt; a final line break is dropped. A prompt of any length takes the memory of a short one if the
    model's state does not grow. For integers and numbers, any file that subq train reads them from; of several sequences in it,
    the last one."""
    prompt_length: int | None = None
    """For integers or numbers: use only the last this many of the prompt. Default: all of --prompt; of a file, one training window."""
    column: str | None = None
    """For integers or numbers: column or field of --prompt_file. Default: as in training."""
    dtype: str | None = None
    """For integers or numbers: data type of a .bin file. Default: as in training."""
    tokens: int | None = None
    """Number of different integers that a saved model reads, if the model does not record it."""
    max_new_tokens: int | None = None
    """Most tokens to generate; the model may end the document earlier. Default: 400, or what fits the model's max_length."""
    samples: int = 1
    """Number of continuations; the prompt is read once."""
    temperature: float | None = None
    """Below 1: more predictable; above 1: more varied; 0: always the most likely token (greedy). Default: 0.8; for a series of numbers 1,
    so that forecasts vary as widely as the model has learned."""
    top_k: int | None = None
    """Sample from the k most likely tokens only."""
    top_p: float | None = None
    """Nucleus sampling: sample from the most likely tokens whose probabilities add up to p."""
    min_p: float | None = None
    """Sample only from tokens at least min_p times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1: make tokens that have already occurred less likely."""
    repetition_window: int | None = None
    """Number of last tokens that the repetition penalty looks at. Default: all of prompt and text."""
    stop: list[str] | None = None
    """Stop before this string; may be given several times. \\n is a line break, \\t a tab, \\\\ a backslash."""
    quantize: Literal["int8"] | None = None
    """int8: hold the model's weights in 8 bits, in a quarter of the memory. Default: as they were saved."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""
    seed: int | None = None
    """Random seed; the same seed gives the same text. Default: a new one each time."""
    echo: bool = True
    """Also write the prompt before its continuation."""
    log_probs: bool = False
    """One JSON line per token instead of the text: token, its text, and log_prob, the logarithm of its probability under the model itself
    (before temperature and filters). A token that is part of a character also has bytes."""
    format: Literal["text", "json"] = "text"
    """json: one line per sample, with text, number of tokens, their log_prob together, and end: eos, stop, length or interrupted."""
    out: str | None = None
    """For integers or numbers: write the continuation to this .npy file instead of standard output. Several samples are its rows,
    padded with -1 or NaN where one ends before the others."""
    overwrite: bool = False
    """Replace the file that --out names."""
    interactive: bool = False
    """A conversation: the model goes on from each line you type, and remembers everything so far. Ctrl-C stops a reply, Ctrl-D or /quit
    ends."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that exclude each other."""
        for name, value, good, allowed in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens is None or self.max_new_tokens >= 1, "at least 1"),
            ("samples", self.samples, self.samples >= 1, "at least 1"),
            ("prompt_length", self.prompt_length, self.prompt_length is None or self.prompt_length >= 1, "at least 1"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 2**63, "from 0 to 2**63 - 1"),
            ("stop", self.stop, all(self.stop or []), "texts of at least one character"),
        ):
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file are both given; give one of them")
        if self.interactive and (self.samples > 1 or self.log_probs or self.format == "json"):
            raise ValueError("interactive shows one text at a time, as text: leave out samples, log_probs and format")
        if self.out is not None:
            if self.interactive or self.log_probs or self.format == "json":
                raise ValueError("out writes values to a file, and nothing else: leave out interactive, log_probs and format")
            _check_out(self.out, overwrite=self.overwrite)
        elif self.overwrite:
            raise ValueError("overwrite is for --out: name a file")
        if self.interactive and "-" in (self.prompt, self.prompt_file):
            raise ValueError("interactive reads standard input line by line: give the first prompt in another way")

    @property
    def sampling(self) -> dict[str, Any]:
        """How tokens are chosen, as far as it was said, as keywords of `subquadratic.generation.Sampling`."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "repetition_window")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def stops(self) -> list[bytes]:
        """The stop texts, line breaks and tabs as themselves."""
        escapes = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
        return [to_bytes(_unescape(text, escapes)) for text in self.stop or []]


def _unescape(text: str, escapes: dict[str, str]) -> str:
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[0]), text, flags=re.DOTALL)


def _check_out(out: str, *, overwrite: bool) -> None:
    """Raises ValueError for an --out that cannot be written, or would be lost."""
    from ..training.outputs import check_file

    place = Path(out).expanduser()
    if place.suffix.lower() != ".npy":
        raise ValueError(f"out must name an .npy file, got {out!r}; text goes to standard output")
    check_file("out", place)
    if place.exists() and not overwrite:
        raise ValueError(f"out: {place} exists; name another file, or give --overwrite to replace it")
