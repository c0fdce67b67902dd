"""How tokens are chosen, as options, whose ranges can be checked without PyTorch."""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..core.errors import require, require_positive
from ..core.scalars import as_number, as_numbers, is_number, is_whole

STREAM_OPTIONS = (
    "max_new_tokens", "mask", "state", "samples", "eos_token", "pad_token", "stop", "tokenizer", "return_log_probs", "generator", "piece",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    Raises:
        ValueError: for a value out of range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Keep the k most likely tokens, and those as likely as the last of them."""
    top_p: float | None = None
    """Nucleus sampling: keep the smallest set of most likely tokens whose probabilities sum to at least p (arXiv 1904.09751)."""
    min_p: float | None = None
    """Keep the tokens at least min_p times as likely as the most likely one (arXiv 2407.01082)."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that were there before get less likely. Positive logits are divided by it, negative ones multiplied (arXiv
    1909.05858)."""
    repetition_window: int | None = None
    """How many of the row's last tokens the penalty looks at, those of the prompt included and padding left out. None: all."""
    banned: Sequence[int] = ()
    """Tokens that are never chosen, as in :func:`fill`: special ones, perhaps. Those that the model does not know do not count."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, as_number(getattr(self, field.name)))
        banned = tuple(self.banned) if isinstance(self.banned, range) else as_numbers(self.banned)
        require(
            isinstance(banned, tuple) and all(is_whole(token) and token >= 0 for token in banned),
            f"banned must be a list of tokens, integers of at least 0, got {self.banned!r}",
        )
        object.__setattr__(self, "banned", banned)
        check_sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)
        penalty = self.repetition_penalty
        require(
            is_number(penalty) and 0 < penalty < math.inf,
            f"repetition_penalty must be greater than 0 (1 = none, 1.2 = some), got {penalty!r}",
        )
        require_positive(repetition_window=self.repetition_window)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """From keywords.

        Raises:
            TypeError: for an unknown one, with the nearest that exists.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                allowed = [*STREAM_OPTIONS, *known]
                close = difflib.get_close_matches(name, allowed, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(allowed)}"
                raise TypeError(f"unknown option {name!r} for generation; {hint}")
        return cls(**options)


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None = None) -> None:
    """Ranges of the sampling options.

    Raises:
        ValueError: naming the option that is out of range.
    """
    require(
        is_number(temperature) and 0 <= temperature < math.inf,
        f"temperature must be at least 0 (0 = always the most likely token), got {temperature!r}",
    )
    require_positive(top_k=top_k)
    require(top_p is None or (is_number(top_p) and 0 < top_p <= 1), f"top_p must be greater than 0 and at most 1, got {top_p!r}")
    require(min_p is None or (is_number(min_p) and 0 <= min_p <= 1), f"min_p must be at least 0 and at most 1, got {min_p!r}")
