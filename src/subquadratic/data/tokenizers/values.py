"""Tokenizers of data that is no text: integers that are tokens already, and numbers that fall into bins.

The token of an integer is the integer, the token of a number is its bin. Four ids above these are special, in the order of the
byte tokenizer: padding, beginning, end of a document, a masked position. As text, values are written with a space between.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..numerals import THE_TEXT, parse_numerals
from .bytes import VALUES_FILE, check_tokens

FORMAT = 1
LARGEST = 2**24  # tokens, or bins
LARGEST_NUMBER = 1e150  # whose square, and the sum of many of them, is finite


class ValueTokenizer:
    """What tokenizers of values share; `size` is how many tokens are no special ones."""

    name: str
    digest: str
    unit: str  # what a token stands for
    dtype: str | None = None  # in which a token store keeps the values; None: as tokens

    def __init__(self, size: int) -> None:
        self.size = size
        self.pad_token, self.bos_token, self.eos_token, self.mask_token = range(size, size + 4)
        self.vocab_size = size + 4

    def encode_values(self, values: NDArray[Any], where: str = "data", first: int = 0) -> NDArray[Any]:
        """The tokens of a document's `values`, or of a piece of it whose first value is at position `first`.

        Raises:
            ValueError: a value that has no token; the message begins with `where` and names its position.
        """
        raise NotImplementedError

    def decode_values(self, tokens: ArrayLike) -> NDArray[Any]:
        """The values of `tokens`, special tokens left out."""
        raise NotImplementedError

    def parse(self, text: str | bytes) -> NDArray[Any]:
        """The values that `text` names, with white space or commas between.

        Raises:
            ValueError: something in it is no value.
        """
        raise NotImplementedError

    def write(self, value: Any) -> str:
        """A value as text."""
        return str(value)

    def content(self) -> dict[str, Any]:
        """What `load_values` needs, as plain values."""
        raise NotImplementedError

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """The tokens of the values that `text` names.

        Raises:
            ValueError: something in it is no value, or one that has no token.
        """
        return self.encode_values(self.parse(text), THE_TEXT)

    def decode(self, tokens: ArrayLike) -> str:
        """The values of `tokens`, special tokens left out."""
        return " ".join(map(self.write, self.decode_values(tokens).tolist()))

    def decode_bytes(self, tokens: ArrayLike) -> bytes:
        """The same with a space before each value, so that what a list of tokens gives is what its parts do, joined."""
        return b"".join(f" {self.write(value)}".encode() for value in self.decode_values(tokens).tolist())

    @property
    def special(self) -> range:
        """The tokens that stand for no value."""
        return range(self.size, self.vocab_size)

    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) zeros: values are no text."""
        return np.zeros(self.vocab_size, dtype=np.int64)

    def save(self, folder: Path) -> None:
        """values.json, which `load_tokenizer(folder)` reads."""
        from ...heads.files import replace_file

        folder.mkdir(parents=True, exist_ok=True)
        written = json.dumps({"format": FORMAT, **self.content()}, indent=1) + "\n"
        replace_file(folder / VALUES_FILE, lambda file: file.write_text(written, encoding="utf-8"))

    def ordinary(self, tokens: ArrayLike) -> NDArray[Any]:
        """`tokens` without the special ones."""
        ids = check_tokens(tokens, self.vocab_size)
        return ids[ids < self.size]


class IntegerTokenizer(ValueTokenizer):
    """Integers from 0 to `size` - 1, which are tokens as they are: notes, bases, events.

    Raises:
        ValueError: `size` is out of range.
    """

    unit = "tokens"

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or not 1 <= size <= LARGEST:
            raise ValueError(f"tokens must be from 1 to {LARGEST:,} (how many different tokens there are), got {size!r}")
        super().__init__(size)
        self.fixed = False  # whether a model was trained with it
        self.name = f"integers below {size:,}"
        self.digest = _digest(["integers", size])

    def encode_values(self, values: NDArray[Any], where: str = "data", first: int = 0) -> NDArray[Any]:
        outside = (values < 0) | (values >= self.size)
        if outside.any():
            place = int(outside.argmax())
            what = f"{where} holds {int(values[place])} at position {first + place:,}"
            if self.fixed:
                raise ValueError(_said(where, f"{what}, and the model reads integers from 0 to {self.size - 1:,}"))
            hint = "--tokens says how many there are, the largest plus 1"
            raise ValueError(f"tokens: {what}, and tokens must be from 0 to {self.size - 1:,}; {hint}")
        return values.astype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def decode_values(self, tokens: ArrayLike) -> NDArray[Any]:
        return self.ordinary(tokens).astype(np.int64)

    def parse(self, text: str | bytes) -> NDArray[Any]:
        return parse_numerals(text, "integer")

    def content(self) -> dict[str, Any]:
        return {"kind": "integers", "size": self.size}


class NumberTokenizer(ValueTokenizer):
    """Numbers in bins: bin i holds those from `edges[i - 1]` up to below `edges[i]`, the first and the last those beyond too.

    Args:
        edges: (bins - 1,) ascending.
        centers: (bins,) what stands for a number of each bin.
        difference: the bins are those of the change from the value before; the first value of a document has the change 0.
        binning: how the bins were found, for people.
        span: the least and the largest of what the bins were found from.

    Raises:
        ValueError: edges and centers that do not fit each other.
    """

    unit = "values"

    def __init__(self, edges: ArrayLike, centers: ArrayLike, *, difference: bool, binning: str, span: tuple[float, float]) -> None:
        self.edges, self.centers = np.asarray(edges, dtype=np.float64), np.asarray(centers, dtype=np.float64)
        if self.edges.ndim != 1 or self.centers.shape != (len(self.edges) + 1,) or (np.diff(self.edges) <= 0).any():
            raise ValueError("bins must have ascending edges, and one center more than edges")
        super().__init__(len(self.centers))
        self.difference, self.binning = difference, binning
        self.lowest, self.highest = map(float, span)
        of_what = "changes" if difference else "numbers"
        self.name = f"{self.size:,} {binning.replace('_', '-')} bins of {of_what}"
        self.digest = _digest(["numbers", difference, self.edges.tolist(), self.centers.tolist()])

    def bins(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """The bin of each number, or of each change where these are binned; the end token for NaN, which is between documents."""
        found = np.searchsorted(self.edges, values, side="right")
        found = np.where(np.isnan(values), self.eos_token, found)
        return found.astype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def encode_values(self, values: NDArray[Any], where: str = "data", first: int = 0) -> NDArray[Any]:
        numbers = finite(values, where, first)
        return self.bins(np.diff(numbers, prepend=numbers[:1]) if self.difference else numbers)

    def decode_values(self, tokens: ArrayLike) -> NDArray[Any]:
        """The centers of the bins: numbers, or changes."""
        return self.centers[self.ordinary(tokens).astype(np.int64)]

    def parse(self, text: str | bytes) -> NDArray[Any]:
        return parse_numerals(text, "number")

    def write(self, value: Any) -> str:
        return f"{value:+.6g}" if self.difference else f"{value:.6g}"

    def content(self) -> dict[str, Any]:
        told = {"kind": "numbers", "binning": self.binning, "difference": self.difference, "span": [self.lowest, self.highest]}
        return {**told, "edges": self.edges.tolist(), "centers": self.centers.tolist()}


class Unbinned(ValueTokenizer):
    """Numbers as they are, NaN between documents: what the token store holds of a series, whose bins are found afterwards."""

    unit = "values"
    dtype = "<f8"
    name = "numbers"

    def __init__(self) -> None:
        super().__init__(0)
        self.eos_token: Any = np.nan
        self.digest = _digest(["numbers"])

    def encode_values(self, values: NDArray[Any], where: str = "data", first: int = 0) -> NDArray[Any]:
        return finite(values, where, first)


def finite(values: NDArray[Any], where: str, first: int) -> NDArray[np.float64]:
    """`values` as float64. From files NaN does not come here: it is passed over.

    Raises:
        ValueError: NaN or an infinity among them, or one so large that the square of an error would be infinite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        place = int(bad.argmax())
        what = f"{where} holds {numbers[place]} at position {first + place:,}"
        raise ValueError(_said(where, f"{what}, and a series may not hold NaN or infinity"))
    large = np.abs(numbers) > LARGEST_NUMBER
    if large.any():
        place = int(large.argmax())
        what = f"{where} holds {numbers[place]:g} at position {first + place:,}"
        limit = f"a series may hold numbers up to {LARGEST_NUMBER:g}: divide all of it by a power of ten"
        raise ValueError(_said(where, f"{what}, and {limit}"))
    return numbers


def _said(where: str, what: str) -> str:
    """What is wrong with data, or with a text of which whoever gave it knows the option."""
    return what if where == THE_TEXT else f"data: {what}"


def reads_values(tokenizer: Any) -> bool:
    """Whether a tokenizer's data is integers or numbers, and not text."""
    return isinstance(tokenizer, ValueTokenizer)


def load_values(path: Path) -> ValueTokenizer:
    """The tokenizer that a values.json describes.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"it has the format {content['format']!r}, and this version reads {FORMAT}")
        if content["kind"] == "integers":
            tokenizer = IntegerTokenizer(content["size"])
            tokenizer.fixed = True
            return tokenizer
        arguments = {name: content[name] for name in ("edges", "centers", "difference", "binning", "span")}
        return NumberTokenizer(**arguments)
    except OSError as error:
        raise ValueError(f"tokenizer: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"tokenizer: {path} is damaged: {error}") from error


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
