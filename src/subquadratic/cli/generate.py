"""`subq generate`: text from a trained model, as it is written."""

from __future__ import annotations

import codecs
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .options import parse

EXAMPLES = """\
examples:
  subq generate runs/performer-1 --prompt "def "
  subq generate runs/performer-1 --prompt "import " --temperature 0.5 --max_new_tokens 1000 --seed 1
  subq generate runs/performer-1 --prompt "class A" --temperature 0        always the likeliest byte
"""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Continue a prompt with a trained model; the text appears as it is written."""

    run: str
    """Run folder of a causal model, or any folder that save_pretrained wrote."""
    prompt: str = ""
    """Text to continue. Default: the beginning of a document."""
    max_new_tokens: int = 400
    """Bytes to write at most; the model may end the document before."""
    temperature: float = 0.8
    """Below 1 more predictable, above 1 more varied, 0 always the likeliest byte."""
    top_k: int | None = None
    """Choose among the so many likeliest bytes only."""
    top_p: float | None = None
    """Choose among the likeliest bytes that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text. Default: a new one each time."""

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        for name, value, good, allowed in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 2**63, "from 0 to 2**63 - 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")


def run(argv: Sequence[str]) -> int:
    options = parse(GenerateOptions, argv, verb="generate", examples=EXAMPLES, positional="run")
    options.check()
    model = load(options.run)
    write = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    try:
        _emit(options.prompt)
        for data in stream(model, options):
            _emit(write(data))
        _emit(write(b"", True) + "\n")
    except KeyboardInterrupt:
        _emit("\n")
        return 130
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def load(path: str) -> Any:
    """The causal model in a folder, on the GPU if there is one.

    Raises:
        ValueError: there is none; the message says what is there.
    """
    folder = Path(path).expanduser()
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if not folder.is_dir():
        raise ValueError(f"run: no such folder: {folder}")
    if missing:
        raise ValueError(f"run: {folder} holds no model ({' and '.join(missing)} missing); train one with subq train")

    import torch

    from ..models.language_model import LanguageModel
    from ..ops.errors import NotCausalError

    model: Any = LanguageModel.from_pretrained(folder)
    if not isinstance(model, LanguageModel):
        from ..compat.continuation import Continuation

        try:
            model = Continuation(model)
        except NotCausalError as error:
            raise ValueError(f"run: the model in {folder} cannot continue a text: {error}") from error
    elif not model.config.causal:
        raise ValueError(f"run: the model in {folder} fills in masked tokens; only a causal one can continue a text")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def stream(model: Any, options: GenerateOptions) -> Iterator[bytes]:
    """The bytes that the model writes after the prompt, one at a time, up to the end of the document."""
    import torch

    from ..data import ByteTokenizer

    tokenizer = ByteTokenizer()
    device = next(model.parameters()).device
    prompt = torch.from_numpy(tokenizer.encode(options.prompt).astype("int64"))
    if not len(prompt):
        start = tokenizer.eos_token if model.vocab_size > tokenizer.eos_token else ord("\n")
        prompt = torch.tensor([start])
    seed = random.SystemRandom().getrandbits(63) if options.seed is None else options.seed
    tokens = model.stream(
        prompt[None].to(device),
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        generator=torch.Generator(device=device).manual_seed(seed),
    )
    for token in tokens:
        if int(token) == tokenizer.eos_token:
            return
        yield tokenizer.decode_bytes(token.cpu())


def _emit(text: str) -> None:
    """Written as UTF-8 whatever the terminal's own encoding, at once."""
    sys.stdout.buffer.write(text.encode("utf-8", errors="replace"))
    sys.stdout.buffer.flush()
