"""`subq fill`: the masked places of a text, filled in by a bidirectional model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ..training.status import status
from .options import UsageError, parse
from .text_io import Output, read_file, to_bytes
from .value_io import difference

if TYPE_CHECKING:
    from .text_model import TextModel

EXAMPLES = """\
examples:
  subq fill runs/fastformer-1 "the cat [MASK] on the mat"
  subq fill runs/fastformer-1 "def [MASK:5](self):" --top_k 3       five tokens (bytes, without a tokenizer), and the best for each
  subq fill runs/fastformer-1 "one _ two" --mask_text _ --temperature 1 --seed 1
  cat page.txt | subq fill runs/fastformer-1 - --at_once --format json
"""
MOST = 1_000_000  # masked tokens in one place


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """Fill in the masked positions of a text, the most certain first."""

    run: str
    """Run folder of a bidirectional model, or any folder that save_pretrained wrote."""
    text: str | None = None
    """Text with masked positions; may follow RUN without --text; - reads it from standard input."""
    mask_text: str = "[MASK]"
    """The string that stands for a masked token. If it ends in a bracket, [MASK:5] is five of them. With a tokenizer whose words begin
    with the space before them, that space belongs to the masked word."""
    at_once: bool = False
    """Fill in all positions in one pass, independently of each other. Otherwise each pass fills in the one position where the model
    is most certain, and later passes see it."""
    temperature: float = 0.0
    """0 takes the most likely token at each position; above 0, tokens are sampled."""
    top_k: int | None = None
    """Also show the k best candidates at each position with their probabilities, and sample from them only."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""
    seed: int | None = None
    """Random seed; the same seed gives the same tokens. Default: a new one each time."""
    format: Literal["text", "json"] = "text"
    """json: one line with the text and, for each masked token, its position, token, text, probability and candidates."""

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        for name, value, good, allowed in (
            ("mask_text", self.mask_text, bool(self.mask_text), "at least one character"),
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "at least 0"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 2**63, "from 0 to 2**63 - 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        if self.text is None:
            raise ValueError(f"text is missing: give a text with {self.mask_text} in it after RUN, or - for standard input")


@dataclass(frozen=True)
class Place:
    """A masked place, filled in. `candidates` are (token, probability), the best first."""

    position: int
    token: int
    probability: float
    candidates: list[tuple[int, float]]


def run(argv: Sequence[str]) -> int:
    options = parse(FillOptions, _text_as_flag(argv), verb="fill", examples=EXAMPLES, positional="run")
    options.check()
    text = read_file("-", name="text", run=options.run) if options.text == "-" else to_bytes(options.text or "")
    parts = split(text, options.mask_text)

    from ..data import load_tokenizer
    from .text_model import check, load

    folder = check(options.run, ("masked",))
    tokenizer = load_tokenizer(folder)
    if difference(tokenizer):
        raise ValueError(f"run: the model in {folder} learned changes from one number to the next, and fill takes numbers themselves")

    with status("loading the model") as line:
        from ..core.threads import use_threads

        use_threads(options.threads)
        loaded = load(options.run, ("masked",), tokenizer=tokenizer)
        line.show("filling in")
        filled, places = fill_in(loaded, options, parts)
    output = Output()
    if options.format == "json":
        output.line(_json(loaded, options, filled, places))
        return 0
    output.write(filled)
    output.end()
    for place in places if options.top_k else ():
        shown = "  ".join(f"{_spelled(loaded, token)} {probability:.1%}" for token, probability in place.candidates)
        output.line(f"token {place.position + 1}: {shown}")
    return 0


def _text_as_flag(argv: Sequence[str]) -> list[str]:
    """The second word that belongs to no flag as `--text`."""
    flags = ("--at_once", "--help", "--print_config")  # those that can stand alone
    rest, words = [], 0
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if word.startswith("--") and len(word) > 2:
            rest.append(word)
            word = word.replace("-", "_").replace("__", "--", 1)  # --at-once too
            takes = word not in flags or (word == "--at_once" and argv[position : position + 1] in (["true"], ["false"]))
            if "=" not in word and takes and position < len(argv):
                rest.append(argv[position])
                position += 1
            continue
        words += 1
        if words > 2:
            raise UsageError(f"one text only, got also {word!r}; put quotation marks around the text")
        if words == 2 and any(given.partition("=")[0] == "--text" for given in argv):
            raise UsageError(f"the text is given twice: {word!r}, and with --text")
        rest.append(f"--text={word}" if words == 2 else word)
    return rest


def split(text: bytes, mask_text: str) -> list[bytes | int]:
    """`text` as pieces: bytes, and between them how many tokens are masked.

    Raises:
        ValueError: nothing is masked, or a number of masked tokens is 0.
    """
    pattern = re.escape(to_bytes(mask_text))
    if mask_text[-1] in ")]}>" and len(mask_text) > 1:
        pattern = re.escape(to_bytes(mask_text[:-1])) + rb"(?::(\d+))?" + re.escape(to_bytes(mask_text[-1]))
    parts: list[bytes | int] = []
    end = 0
    for match in re.finditer(pattern, text):
        parts.append(text[end : match.start()])
        count = int(match[1][:20]) if match.re.groups and match[1] else 1
        if not 1 <= count <= MOST:
            raise ValueError(f"text: the number of masked tokens must be from 1 to {MOST:,}, got {match[0].decode()[:40]}")
        parts.append(count)
        end = match.end()
    if not parts:
        raise ValueError(f"text has no {mask_text} in it: put one for each token to fill in (--mask_text changes what stands for it)")
    return [part for part in (*parts, text[end:]) if part != b""]


def fill_in(loaded: TextModel, options: FillOptions, parts: list[bytes | int]) -> tuple[bytes, list[Place]]:
    """The filled text, and what was filled in, in the order of the text.

    Raises:
        ValueError: the text does not fit the model.
    """
    import numpy as np
    import torch

    from ..generation import fill_steps

    tokens, masked = encode(loaded, parts)
    tokenizer, vocabulary = loaded.tokenizer, loaded.model.vocab_size
    written = np.arange(tokenizer.vocab_size) < tokenizer.size if loaded.values else tokenizer.byte_lengths() > 0
    banned = [token for token in range(vocabulary) if token >= len(written) or not written[token]]
    if len(banned) == vocabulary:
        raise ValueError(f"run: the model in {loaded.folder} has no token with text")
    seed = random.SystemRandom().getrandbits(63) if options.seed is None else options.seed
    now = torch.tensor([tokens], device=loaded.device)
    places = []
    for step in fill_steps(
        loaded.model,
        now,
        torch.tensor([masked], device=loaded.device),
        at_once=options.at_once,
        temperature=options.temperature,
        top_k=options.top_k,
        banned=banned,
        generator=torch.Generator(device=loaded.device).manual_seed(seed),
    ):
        shown = min(options.top_k or 1, vocabulary - len(banned))
        best = step.probabilities.topk(shown, dim=-1)
        for row, (_, position) in enumerate(step.places.tolist()):
            token = int(step.tokens[row])
            tokens[position] = token
            candidates = list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
            places.append(Place(position, token, float(step.probabilities[row, token]), candidates))
    return _text(loaded, tokens), sorted(places, key=lambda place: place.position)


def encode(loaded: TextModel, parts: list[bytes | int]) -> tuple[list[int], list[bool]]:
    """Tokens, and which are masked.

    Raises:
        ValueError: the text does not fit the model.
    """
    limit, vocabulary = loaded.model.max_length, loaded.model.vocab_size
    try:
        pieces = [part if isinstance(part, int) else loaded.tokenizer.encode(part).tolist() for part in parts]
        for piece, following in pairwise(pieces):
            if isinstance(following, int) and isinstance(piece, list) and _ends_in_space_of_a_word(loaded.tokenizer, piece):
                piece.pop()
    except ValueError as error:
        raise ValueError(f"text: {error}") from error
    length = sum(piece if isinstance(piece, int) else len(piece) for piece in pieces)
    if limit is not None and length > limit:
        raise ValueError(f"text is too long: {length:,} tokens, and this model reads at most max_length={limit:,}; shorten it")
    worst = max((token for piece in pieces if not isinstance(piece, int) for token in piece), default=0)
    if worst >= vocabulary:
        spelled = loaded.tokenizer.decode_bytes([worst]).decode("utf-8", errors="backslashreplace")
        raise ValueError(f"text has the token {worst} ({spelled!r}), but the model knows {vocabulary} tokens, 0 to {vocabulary - 1}")
    tokens: list[int] = []
    masked: list[bool] = []
    for piece in pieces:
        new = [0] * piece if isinstance(piece, int) else piece  # a masked place holds any token: the model does not see it
        tokens += new
        masked += [isinstance(piece, int)] * len(new)
    return tokens, masked


def _ends_in_space_of_a_word(tokenizer: Any, tokens: list[int]) -> bool:
    """Whether the last token is the space that, in this tokenizer, the word after it would begin with."""
    if not tokens or tokenizer.decode_bytes(tokens[-1:]) != b" ":
        return False
    lengths = tokenizer.byte_lengths()
    return any(tokenizer.decode_bytes([token]).startswith(b" ") for token in (lengths > 1).nonzero()[0].tolist())


def _text(loaded: TextModel, tokens: list[int]) -> bytes:
    """The bytes of a whole text."""
    from ..generation.stopping import Words

    words = Words(loaded.tokenizer, first=True)
    return b"".join(words.bytes_of(token) for token in tokens)


def _spelled(loaded: TextModel, token: int) -> str:
    data = loaded.tokenizer.decode_bytes([token])
    try:
        return json.dumps(data.decode("utf-8"), ensure_ascii=False)
    except UnicodeDecodeError:  # a part of a character
        return '"' + "".join(rf"\x{byte:02x}" for byte in data) + '"'


def _json(loaded: TextModel, options: FillOptions, filled: bytes, places: list[Place]) -> str:
    def described(token: int, probability: float) -> dict[str, Any]:
        text = loaded.tokenizer.decode_bytes([token]).decode("utf-8", errors="replace")
        return {"token": token, "text": text, "probability": round(probability, 6)}

    found = []
    for place in places:
        content = {"position": place.position, **described(place.token, place.probability)}
        if options.top_k:
            content["candidates"] = [described(token, probability) for token, probability in place.candidates]
        found.append(content)
    return json.dumps({"text": filled.decode("utf-8", errors="replace"), "places": found}, ensure_ascii=False)
