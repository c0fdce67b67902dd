"""`subq generate --interactive`: the model goes on from what is typed, line by line, through its state: nothing is read twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .generate_options import GenerateOptions
from .text_generation import NEW_TOKENS, new_seed, row_text, sampling_of, start
from .text_io import Output, notify, to_bytes
from .text_model import TextModel

HELP = "Type a text, and the model continues it; an empty line continues its own. Ctrl-C stops a text, Ctrl-D or /quit ends.\n"


def converse(loaded: TextModel, options: GenerateOptions, prompt: bytes) -> int:
    """Lines in, text out, until the input ends; the exit status."""
    output = Output()
    if sys.stdin is None:
        raise ValueError("interactive: there is no standard input to read")
    reply: Callable[[bytes], None] = _Sources(loaded, options, output) if loaded.kind == "pairs" else _Conversation(loaded, options, output)
    if sys.stdin.isatty():
        notify(HELP)
    typed: bytes | None = prompt
    if not prompt:
        typed = _next_line(output)
    elif options.echo and loaded.kind != "pairs":
        output.write(prompt)
    while typed is not None and not output.closed:
        try:
            reply(typed)
        except KeyboardInterrupt:
            output.end()
        except _Full as full:
            output.end()
            notify(f"subq generate: {full}\n")
            return 1
        except ValueError as error:  # this line is no good; the next may be
            notify(f"subq generate: {' '.join(str(error).split())}\n")
        typed = None if output.closed else _next_line(output)
    return 0


class _Full(Exception):
    """The model can read no more."""


class _Conversation:
    """Everything so far is one text, in which each typed line begins a new one, unless a stop text asked for it."""

    def __init__(self, loaded: TextModel, options: GenerateOptions, output: Output) -> None:
        import torch

        from ..generation import Decoding, Sampling

        generator = torch.Generator(device=loaded.device).manual_seed(new_seed(options))
        self.loaded, self.options, self.output = loaded, options, output
        self.decoding = Decoding(loaded.model, Sampling(**sampling_of(loaded, options)), generator=generator)
        self.ended_by: str | None = "stop"  # before the first line nothing needs a line break
        self.last = b""

    def __call__(self, typed: bytes) -> None:
        """Read a line, and write what follows it.

        Raises:
            ValueError: it cannot be read.
            _Full: the model can read no more.
        """
        begun = self.decoding.state is not None
        self._read(typed)
        row = row_text(self.loaded, self.options, first=not begun and not typed)
        self.ended_by, self.last = None, typed[-1:] or self.last
        try:
            for _ in range(self.options.max_new_tokens or NEW_TOKENS):
                if self._room() < 1:
                    raise _Full(f"the conversation has reached max_length={self.loaded.model.max_length}, all that this model can read")
                chosen = self.decoding.choose_only()
                self._show(row.feed(int(chosen)))
                if row.end is not None or self.output.closed:
                    break
        finally:
            self._show(row.finish())
        self.ended_by = row.end
        if row.end == "eos":
            self.decoding.unchoose()  # the conversation is one document
        self.output.end()

    def _read(self, typed: bytes) -> None:
        from ..generation.text import prompt_tokens

        begun = self.decoding.state is not None
        if begun and not typed:
            return
        if begun and self.ended_by != "stop" and self.last != b"\n":
            typed = b"\n" + typed
        tokens = prompt_tokens(self.loaded.tokenizer, typed, self.loaded.model.vocab_size)
        if self._room() < len(tokens) + 1:
            raise _Full(f"the conversation and these {len(tokens)} tokens do not fit max_length={self.loaded.model.max_length}")
        self.decoding.read(tokens[None].to(self.loaded.device))

    def _room(self) -> int:
        """How many more tokens the model can read, and one that it need not read; many where there is no limit."""
        limit = getattr(self.loaded.model, "max_length", None)
        state: Any = self.decoding.state
        if limit is None:
            return sys.maxsize
        return limit + 1 - (0 if state is None else int(state.seen.max()) + self.decoding.unread)

    def _show(self, pieces: list[Any]) -> None:
        for piece in pieces:
            self.output.write(piece.data)
            self.last = piece.data[-1:] or self.last


class _Sources:
    """Each line is a source of its own."""

    def __init__(self, loaded: TextModel, options: GenerateOptions, output: Output) -> None:
        self.loaded, self.options, self.output, self.seed = loaded, options, output, new_seed(options)

    def __call__(self, typed: bytes) -> None:
        if not typed:
            return
        row = row_text(self.loaded, self.options, first=True)
        steps = start(self.loaded, self.options, typed, seed=self.seed)
        self.seed += 1
        for chosen, _ in steps:
            for piece in row.feed(int(chosen)):
                self.output.write(piece.data)
            if self.output.closed:
                return
        for piece in row.finish():
            self.output.write(piece.data)
        self.output.end()


def _next_line(output: Output) -> bytes | None:
    """What is typed, without its line break; None when the input ends."""
    while True:
        try:
            line = _type() if sys.stdin.isatty() else sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            notify("\n(Ctrl-D or /quit ends)\n")
            continue
        if not line or line.strip() == b"/quit":
            return None
        return line.removesuffix(b"\n").removesuffix(b"\r")


def _type() -> bytes:
    """A line from the terminal, with what `readline` offers for editing where there is one; empty when the input ends."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        if sys.stdout.isatty():
            return to_bytes(input("> ") + "\n")
        notify("> ")
        return to_bytes(input() + "\n")
    except EOFError:
        notify("\n")
        return b""
