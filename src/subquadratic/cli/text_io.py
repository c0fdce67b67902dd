"""Text from the command line, a file or standard input, as bytes; text to standard output as UTF-8, as it is written."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from ..training.display import PICTURES


class OutputError(OSError):
    """What was to be written cannot be, once the work has begun; the text is one line."""


def to_bytes(text: str) -> bytes:
    """A text of the command line in UTF-8: bytes that the terminal's encoding could not read come back as they were; a lone
    surrogate, which has no bytes, becomes `?`."""
    return b"".join(
        bytes([ord(letter) - 0xDC00]) if 0xDC80 <= ord(letter) <= 0xDCFF else letter.encode("utf-8", errors="replace") for letter in text
    )


def read_file(path: str, *, name: str, run: str) -> bytes:
    """The text of a file, or with `-` of standard input, without a line break at its end; read as the text was that the model
    in the folder `run` was trained on: LF line ends, no byte order mark, unless it was trained on bytes as they are.

    Raises:
        ValueError: it cannot be read, is empty or in another encoding; the message begins with `name`, the option.
    """
    if path == "-":
        if sys.stdin is None:
            raise ValueError(f"{name}: there is no standard input to read")
        where, data = "standard input", sys.stdin.buffer.read()
    else:
        place = Path(path).expanduser()
        where = str(place)
        try:
            data = place.read_bytes()
        except OSError as error:
            raise ValueError(f"{name}: cannot read {place}: {error.strerror or error}") from error
    data = _as_trained(data, name=name, where=where, run=run).removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise ValueError(f"{name}: {where} is empty; give it a text")
    return data


def _as_trained(data: bytes, *, name: str, where: str, run: str) -> bytes:
    from ..data.reading import BOM, unix_lines
    from ..data.sniffing import encoding_of
    from ..evaluation.saved import trained_on_bytes

    if trained_on_bytes(Path(run).expanduser()):
        return data
    encoding = encoding_of(data)
    if encoding is not None:
        raise ValueError(f"{name}: {where} looks like {encoding}: convert it, as with iconv -f {encoding} -t UTF-8 OLD > NEW")
    return unix_lines(data.removeprefix(BOM))


def print_text(text: str) -> None:
    """A whole report to standard output, as UTF-8 whatever the terminal's own encoding; a reader that leaves early, `head` perhaps, is no
    error.

    Raises:
        OutputError: standard output cannot be written, or there is none.
    """
    Output().line(text.removesuffix("\n"))


def notify(text: str) -> None:
    """Something by the way to standard error; nothing where there is none, or nobody reads it any more."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def help_width() -> int:
    """Columns of a help text: those of the terminal, as COLUMNS says it, 100 at most."""
    said = os.environ.get("COLUMNS", "")
    return max(40, min(100, int(said) if said.isdecimal() and int(said) else 100))


def output_width() -> int:
    """Columns of what is printed for people: those of the terminal, from 40 to 100."""
    return max(40, min(100, shutil.get_terminal_size((100, 24)).columns))


def fitted(line: str, width: int) -> list[str]:
    """A line of a help text in lines of at most `width` columns where its words allow it. An indented one is a command, which goes on after
    a backslash, perhaps with a remark after two spaces or more, which moves to the left or gets lines of its own. Rows of a table stay."""
    if len(line) <= width or len(re.findall(r"\S {2,}", line)) > 1:
        return [line]
    start = line[: len(line) - len(line.lstrip())]
    if not start:
        return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    command, _, remark = re.sub(r" {2,}", "\0", line.strip(), count=1).partition("\0")
    room = width - len(start + command + remark)
    if remark and room >= 2:
        return [f"{start}{command}{' ' * room}{remark}"]
    lines = [start]
    for word in re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", command):
        if len(f"{lines[-1]} {word} \\") > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append(f"{start}    ")
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    more = f"{start}    # "
    return lines + textwrap.wrap(remark, width, initial_indent=more, subsequent_indent=more, break_long_words=False)


class Output:
    """Standard output, for bytes that may be cut inside a character: a character appears when it is whole, and what is
    no UTF-8 as U+FFFD. On a terminal, control characters other than tab and line break are shown, not obeyed.

    Each `write` is on the terminal when it returns. `closed` is set once the reader has gone.
    """

    def __init__(self) -> None:
        self.closed = False
        self.last = ""
        """The last character written."""
        self._decode = _decoder()

    def write(self, data: bytes) -> None:
        """More bytes of the text.

        Raises:
            OutputError: standard output cannot be written (a full disk).
        """
        self._emit(self._decode(data))

    def line(self, text: str) -> None:
        """A line of its own."""
        self._emit(text + "\n")

    def end(self) -> None:
        """End the text: what is left of a character, and a line break."""
        self._emit(self._decode(b"", True) + "\n")
        self._decode = _decoder()

    def _emit(self, text: str) -> None:
        if self.closed or not text:
            return
        if sys.stdout is None:
            raise OutputError("there is no standard output to write to")
        self.last = text[-1]
        if sys.stdout.isatty():
            text = text.translate(PICTURES)
        try:
            out = getattr(sys.stdout, "buffer", None)
            if out is None:
                sys.stdout.write(text)
            else:
                out.write(text.encode("utf-8", errors="replace"))
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
            self._close()
        except OSError as error:
            self._close()
            raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error

    def _close(self) -> None:
        """Nothing more comes out, also not at the end of the process, which would complain."""
        self.closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _decoder() -> Any:
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode
