"""Names and numbers of a comparison in words, the same in the page, the terminal and the sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median

from ..benchmark.report import seconds
from ..evaluation.report import amount
from .results import Comparison, Entry
from .statistics import Estimate

LABELS = {
    "performer": "Performer",
    "linformer": "Linformer",
    "fastformer": "Fastformer",
    "perceiver_ar": "Perceiver AR",
    "feedback_transformer": "Feedback Transformer",
    "gated_linear": "gated linear attention",
    "transformer": "exact attention",
}
TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF)  # bidirectional embeddings, overrides, isolates; no characters
BY_POINTS = "accuracy"  # differences of accuracies are in percentage points


def is_exact(entry: Entry) -> bool:
    """Whether an entry is our Transformer with full attention, which the others are measured against."""
    return entry.source == "ours" and entry.name == "transformer" and not entry.options.get("window")


def label(comparison: Comparison, name: str) -> str:
    """What an entry is called in a sentence."""
    entry = next((entry for entry in comparison.entries if entry.name == name), None)
    if entry is None or entry.source != "ours":
        return clean(name)
    return f"windowed attention ({name})" if name == "transformer" and not is_exact(entry) else LABELS.get(name, name)


def labels(comparison: Comparison, names: Iterable[str]) -> str:
    """Several entries in a sentence: `A, B and C`."""
    return listed([label(comparison, name) for name in names])


def listed(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def sentence(text: str) -> str:
    """With a capital and a full stop; what begins with the name of a user's model stays as it is."""
    begun = next((word for word in LABELS.values() if text.startswith(word)), None) or text.split(" ", 1)[0]
    ours = begun in LABELS.values() or (begun.isalpha() and begun.islower() and len(begun) > 1 and "_" not in begun)
    text = text[:1].upper() + text[1:] if ours else text
    return text if text.endswith((".", "!", "?")) else f"{text}."


def digits(half: float | None, scale: float = 1.0) -> int:
    """Decimals that an interval of this half-width deserves: two digits of it, two decimals at least and three at most."""
    if not half or not math.isfinite(half):
        return 3
    return min(3, max(2, 1 - math.floor(math.log10(half * scale))))


def value(number: float, unit: str, *, decimals: int = 3, with_unit: bool = True) -> str:
    """A score: `2.310 bits/byte`, `81.2%`."""
    if unit == BY_POINTS:
        return f"{100 * number:.{max(1, decimals - 2)}f}%"
    return f"{number:.{decimals}f}{f' {unit}' if with_unit else ''}"


def gap(number: Estimate, unit: str) -> str:
    """The size of a difference with its interval: `0.05 (0.02 to 0.08)`, `3.1 (1.0 to 5.2) points`."""
    places, scale, word = (1, 100.0, " points") if unit == BY_POINTS else (digits(number.half), 1.0, "")
    low, high = number.low, number.high
    mean = number.mean * scale
    if number.mean < 0:
        mean, low, high = -mean, None if high is None else -high, None if low is None else -low
    if low is None or high is None:
        return f"{mean:.{places}f}{word}"
    return f"{mean:.{places}f} ({low * scale:.{places}f} to {high * scale:.{places}f}){word}"


def signed(number: Estimate, unit: str) -> str:
    """A difference in a table: `+0.05 (+0.02 to +0.08)`."""
    places, scale = (1, 100.0) if unit == BY_POINTS else (digits(number.half), 1.0)
    parts = [f"{part * scale:+.{places}f}" for part in (number.mean, number.low, number.high) if part is not None]
    parts = [part if float(part) else part[1:] for part in parts]  # zero has no sign
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({parts[1]} to {parts[2]})"


def factor(number: float) -> str:
    """A ratio with two digits: `2.3`, `14`, `0.52`."""
    return (
        f"{number:,.0f}"
        if number >= 9.95
        else f"{number:.1f}"
        if number >= 0.995
        else f"{number:.2f}"
        if number >= 0.0995
        else f"{number:.2g}"
    )


def factors(number: Estimate) -> str:
    """The ratio that a difference of logarithms is, with its interval: `2.3 (2.1 to 2.5)`."""
    parts = [factor(math.exp(part)) for part in (number.mean, number.low, number.high) if part is not None]
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({parts[1]} to {parts[2]})"


def duration(length: float) -> str:
    """`45 seconds`, `2 minutes`, `1.5 hours`; below ten seconds with a decimal, below one with three digits and the unit's sign."""
    if length < 1:
        return seconds(length)
    if length < 9.95:
        return f"{length:.1f} seconds"
    if length < 90:
        return f"{length:.0f} seconds"
    number, unit = (length / 60, "minutes") if length < 5400 else (length / 3600, "hours")
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def budget(comparison: Comparison) -> str:
    """What each run got: `2 minutes of training each`."""
    equal = comparison.settings.get("equal", "time")
    name = {"tokens": "tokens", "flops": "flops"}.get(equal, "seconds")
    given = {**comparison.settings, **(comparison.settings.get("conditions") or {})}.get(f"run_{name}")
    got = [getattr(trial, name) for trial in comparison.trials if trial.status == "done"]
    number = given if isinstance(given, int | float) else median(got) if got else 0
    if not number:
        return f"equal {equal} of training"
    words = {
        "seconds": duration,
        "tokens": lambda count: f"{amount(count)} {tokens(comparison)}",
        "flops": lambda count: f"{amount(count)}FLOP",
    }
    return f"{words[name](number)} of training each"


def tokens(comparison: Comparison) -> str:
    """What is counted as tokens: rows are padded to one length."""
    return "tokens" if comparison.data.get("kind", "language") == "language" else "tokens (with padding)"


def reference(name: str) -> str:
    """What a score is compared with: `unigram`, of `unigram_bits_per_byte`."""
    return clean(re.sub(r"_(bits_per_\w+|accuracy)$", "", name).replace("_", " "))


def one_line(text: str, width: int = 200) -> str:
    """An error as one line: the last of a traceback, where it is one."""
    lines = [line.strip() for line in clean(text).splitlines() if line.strip()] or [""]
    line = lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)
    return line if len(line) <= width else f"{line[: width - 2]}.."


def clean(text: str) -> str:
    """Without characters that no page and no SVG may hold (controls other than tab and line break, lone surrogates), and without those that
    turn the direction of what follows."""
    return "".join("\ufffd" if _forbidden(ord(letter)) else letter for letter in text)


def _forbidden(code: int) -> bool:
    return (code < 32 and code not in (9, 10, 13)) or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or code in TURNING
