"""`subq generate`: text from a trained model, as it is written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.plain_json import to_json
from ..training.status import status
from .generate_options import GenerateOptions
from .options import parse
from .text_generation import row_text, start
from .text_io import Output, notify, read_file, to_bytes
from .value_io import check_unfit, difference, last_value, read_value_prompt, values_after, write_values

if TYPE_CHECKING:
    from ..generation.text import Piece
    from .text_model import TextModel

EXAMPLES = """\
examples:
  subq generate runs/performer-1 --prompt "def "
  subq generate runs/performer-1 --prompt_file chapter.txt --max_new_tokens 1000 --top_p 0.9 --seed 1
  subq generate runs/performer-1 --prompt "class A" --temperature 0       greedy: always the most likely token
  subq generate runs/performer-1 --prompt "def " --stop "\\n\\n" --stop "class "
  subq generate runs/performer-1 --prompt "import " --samples 3 --format json
  git diff | subq generate runs/performer-1 --prompt - --echo false
  subq generate runs/performer-1 --prompt "import os" --log_probs | head
  subq generate runs/performer-1 --quantize int8                          weights of 8 bits: less memory, sooner where they are wide
  subq generate runs/performer-1 --interactive                            line by line, reading nothing twice
  subq generate runs/translator --prompt "ein Text"                       an encoder-decoder: the prompt is its source
  subq generate runs/music --prompt "60 62 64" --out tune.npy             a model of integers, or of numbers
  subq generate runs/prices --prompt_file prices.csv --max_new_tokens 24 --samples 100 --out forecast.npy
"""
CONTINUES = ("causal", "pairs")  # kinds of models


def run(argv: Sequence[str]) -> int:
    options = parse(GenerateOptions, gather("stop", argv), verb="generate", examples=EXAMPLES, positional="run")
    options.check()

    from ..data.tokenizers.values import ValueTokenizer
    from ..evaluation.vocabulary import model_tokenizer
    from ..generation import Sampling
    from .text_model import check, load

    Sampling(**options.sampling)  # says what is out of range before PyTorch and the model are loaded
    folder = check(options.run, CONTINUES)
    tokenizer = model_tokenizer(folder, tokens=options.tokens)
    check_unfit(folder, tokenizer, options)
    prompt = read_value_prompt(folder, tokenizer, options) if isinstance(tokenizer, ValueTokenizer) else read_prompt(options)

    with status("loading the model"):
        from ..core.threads import use_threads

        use_threads(options.threads)
        loaded = load(options.run, CONTINUES, tokenizer=tokenizer, quantize=options.quantize)
    if options.interactive:
        from .conversation import converse

        return converse(loaded, options, prompt)
    return _write(loaded, options, prompt)


def gather(name: str, argv: Sequence[str]) -> list[str]:
    """`--name A --name B` as one `--name=["A", "B"]`, at the place of the first."""
    values: list[str] = []
    rest: list[str] = []
    place = 0
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != f"--{name}":
            rest.append(word)
            continue
        following = value if equals else next(words, None)
        if following is None:
            return list(argv)  # the parser says what is missing
        place = place if values else len(rest)
        values.append(following)
    return [*rest[:place], f"--{name}={json.dumps(values)}", *rest[place:]] if values else rest


def read_prompt(options: GenerateOptions) -> bytes:
    """The prompt in UTF-8, or whatever bytes it has; empty for the beginning of a document.

    Raises:
        ValueError: its file cannot be read, or is empty.
    """
    if options.prompt == "-":
        return read_file("-", name="prompt", run=options.run)
    if options.prompt_file is not None:
        return read_file(options.prompt_file, name="prompt_file", run=options.run)
    return to_bytes(options.prompt or "")


def _write(loaded: TextModel, options: GenerateOptions, prompt: bytes) -> int:
    """Write what follows the prompt, in the form asked for; the exit status."""
    steps = start(loaded, options, prompt)
    report = _Report(loaded, options, prompt)
    level = last_value(loaded.tokenizer, prompt) if difference(loaded.tokenizer) else None
    alone = not prompt or loaded.kind == "pairs" or (loaded.values and (not options.echo or options.format == "json"))
    rows = [row_text(loaded, options, first=alone, level=level) for _ in range(options.samples)]
    began, count, interrupted = time.perf_counter(), 0, False
    try:
        for chosen, scores in steps:
            for number, (token, score) in enumerate(zip(chosen.tolist(), scores.tolist(), strict=True)):
                count += rows[number].end is None
                report.add(number, rows[number].feed(token, score))
            if report.output.closed:
                return 0
    except KeyboardInterrupt:
        interrupted = True
    for number, row in enumerate(rows):
        report.add(number, row.finish())
    report.end([row.end or ("interrupted" if interrupted else "length") for row in rows])
    if sys.stderr is not None and sys.stderr.isatty() and not report.output.closed:
        seconds = time.perf_counter() - began
        notify(f"{count:,} tokens in {seconds:.1f} s, {count / seconds:,.0f} tokens/s\n")
    return 130 if interrupted else 0


class _Report:
    """What is written: text as it comes (one sample), token lines as they come, or everything at the end."""

    def __init__(self, loaded: TextModel, options: GenerateOptions, prompt: bytes) -> None:
        self.loaded, self.options, self.output = loaded, options, Output()
        self.prompt = prompt
        self.before = prompt if options.echo and loaded.kind != "pairs" else b""
        self.written: list[list[Piece]] = [[] for _ in range(options.samples)]
        self.lines = options.log_probs and options.format == "text"
        self.streams = options.samples == 1 and options.format == "text" and not self.lines and options.out is None
        if self.streams:
            self.output.write(self.before)

    def add(self, number: int, pieces: list[Piece]) -> None:
        """More of a sample."""
        for piece in pieces:
            if self.streams:
                self.output.write(piece.data)
            elif self.lines:
                sample = {"sample": number + 1} if self.options.samples > 1 else {}
                self.output.line(to_json({**sample, **_token(piece)}, ensure_ascii=False))
            else:
                self.written[number].append(piece)

    def end(self, ends: list[str]) -> None:
        """All there is, and what ended each sample."""
        if self.streams:
            self.output.end()
            return
        if self.options.out is not None:
            write_values(self.options.out, [self._values(pieces) for pieces in self.written], ended=ends.count("eos"))
            return
        for number, pieces in enumerate([] if self.lines else self.written):
            if self.options.format == "json":
                values = {"values": self._values(pieces).tolist()} if self.loaded.values else {}
                self.output.line(_sample_line(self.options, self.prompt, number, pieces, {**values, "end": ends[number]}))
                continue
            self.output.line(f"===== sample {number + 1} of {self.options.samples}")
            self.output.write(self.before + b"".join(piece.data for piece in pieces))
            self.output.end()

    def _values(self, pieces: list[Piece]) -> Any:
        return values_after(self.loaded.tokenizer, self.prompt, [piece.token for piece in pieces])


def _token(piece: Piece) -> dict[str, Any]:
    text = piece.data.decode("utf-8", errors="replace")
    whole = text.encode() == piece.data
    return {"token": piece.token, "text": text, "log_prob": round(piece.log_prob, 6), **({} if whole else {"bytes": list(piece.data)})}


def _sample_line(options: GenerateOptions, prompt: bytes, number: int, pieces: list[Piece], more: dict[str, Any]) -> str:
    text = b"".join(piece.data for piece in pieces).decode("utf-8", errors="replace")
    content: dict[str, Any] = {"sample": number + 1}
    if options.echo:
        content["prompt"] = prompt.decode("utf-8", errors="replace")
    content |= {"text": text, "tokens": len(pieces), "log_prob": round(sum(piece.log_prob for piece in pieces), 6), **more}
    if options.log_probs:
        content["log_probs"] = [_token(piece) for piece in pieces]
    return to_json(content, ensure_ascii=False)
