"""The command `subq VERB ...`: finds the verb, runs it, and turns what went wrong into one line and an exit status.

| status | meaning                                                     |
|--------|-------------------------------------------------------------|
| 0      | done                                                        |
| 1      | it could not go on: no memory, nowhere to write, a NaN      |
| 2      | bad input: nothing was done                                 |
| 128+n  | ended by signal n (130: Ctrl-C); what there was is saved    |
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from .neighbours import share_processors

VERBS = {
    "train": "train a model on text, by default on Python's own standard library",
    "generate": "continue a text with a trained model",
    "fill": "fill in the masked places of a text with a bidirectional model",
    "predict": "classes of new rows from a classifier, or targets from an encoder-decoder",
    "serve": "answer requests to the OpenAI API with a trained model",
    "evaluate": "measure a trained model on a text of any length",
    "compare": "train several models under equal conditions on your data, and report which serves it best",
    "report": "make the page of a comparison anew, and print its verdict",
    "reproduce": "measure the papers' claims on this machine, and say which hold",
    "bench": "measure time and memory on this machine, compared with other packages and the hardware's limits",
    "info": "what a model costs: parameters, state, FLOPs and memory against length",
    "models": "list the models and what each can do",
    "tokenizer": "train a tokenizer of your own",
    "distil": "give a pretrained model of transformers attention of linear cost, and train it to do as before",
    "convert": "a checkpoint of a published package into a model of ours, or a model of ours for transformers or ONNX Runtime",
    "completion": "print a script that completes all this in bash, zsh or fish",
}
# Which extra of this package brings what a verb may miss.
PACKAGES = {
    "train": (
        "accelerate",
        "docstring_parser",
        "jinja2",
        "jsonargparse",
        "matplotlib",
        "psutil",
        "rich",
        "scipy",
        "shtab",
        "tokenizers",
        "transformers",
        "yaml",
    ),
    "serve": ("fastapi", "openai", "pydantic", "starlette", "typer", "uvicorn"),
    "data": ("pyarrow", "zstandard"),
    "track": ("tensorboard", "trackio"),
}
LONGEST = 1200  # characters of an error
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHATTY = ("torchao", "torch.utils._pytree")  # transformers imports torchao where it is installed; it names every library for GPUs
EXTRAS = {package: extra for extra, packages in PACKAGES.items() for package in packages}


def usage() -> str:
    from .text_io import help_width

    width = max(map(len, VERBS))
    columns = help_width()
    verbs = "\n".join(
        textwrap.fill(text, columns, initial_indent=f"  {verb:<{width}}  ", subsequent_indent=" " * (width + 4))
        for verb, text in VERBS.items()
    )
    return (
        "usage: subq VERB [options]\n\n"
        f"{textwrap.fill('Train and use transformers whose cost does not grow with the square of the length.', columns)}\n\n"
        f"{verbs}\n\n"
        f"{textwrap.fill('subq VERB --help shows the options of a verb, with examples; subq --version the version.', columns)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `subq` with `argv` (the process's own); the exit status. A reader that leaves early, `head` perhaps, is no error."""
    status = _main(list(sys.argv[1:] if argv is None else argv))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)  # else Python's own flush at the end would complain
        if not isinstance(error, BrokenPipeError):
            return _fail("subq", f"cannot write to standard output: {error.strerror or error}", status or 1)
    return status


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _print(usage(), 0 if argv else 2)
    if argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        return _print(f"subquadratic {version('subquadratic')}", 0)
    verb = argv[0]
    if verb not in VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(VERBS)}"
        return _fail("subq", f"unknown verb {verb!r}; {hint}")
    return _run(verb, argv[1:])


def _run(verb: str, argv: list[str]) -> int:
    """The verb's exit status. With SUBQ_TRACEBACK set, errors are raised instead, for whoever looks for a fault in subq."""
    name = f"subq {verb}"
    share_processors()
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        return importlib.import_module(f"{__package__}.{verb}").run(argv)
    except SystemExit as leave:  # the parser leaves so after --help
        return leave.code if isinstance(leave.code, int) else 0
    except KeyboardInterrupt:
        return _fail(name, "interrupted", 130)
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in EXTRAS:
            raise
        return _fail(name, f"needs packages that are not installed: pip install 'subquadratic[{EXTRAS[missing]}]'")
    except Exception as error:
        if os.environ.get("SUBQ_TRACEBACK"):
            raise
        found = _explained(error)
        if found is None:
            raise
        return _fail(name, *found)


def _explained(error: Exception) -> tuple[str, int] | None:
    """One line on an error and its exit status; None for one that only a traceback explains."""
    from ..costs.memory import out_of_memory

    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not kinds & {"TrainingError", "UsageError", "ValueError"} and (said := out_of_memory(error)) is not None:
        return said, 1
    said = str(error) or type(error).__name__
    if kinds & {"TrainingError", "OutputError"} or getattr(error, "errno", None) in FULL:
        return said, 1
    return (said, 2) if kinds & {"UsageError", "ValueError", "OSError"} else None


def _print(text: str, status: int) -> int:
    from .text_io import print_text

    try:
        print_text(text)
    except OSError as error:
        return _fail("subq", str(error), 1)
    return status


def _fail(name: str, message: str, status: int = 2) -> int:
    line = " ".join(message.split())
    if len(line) > LONGEST:  # it quotes what was given; its end says what to do
        line = f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 3 :]}"
    with contextlib.suppress(OSError):  # the exit status says it too
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    return status


def _discard(stream: TextIO) -> None:
    """What waits in the buffer goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
