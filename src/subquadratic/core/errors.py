"""The errors users meet, and the small checks that raise them with the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .scalars import as_number, is_number, is_whole

if TYPE_CHECKING:
    from torch import Tensor


class NotCausalError(ValueError):
    """Streaming was asked of something that needs the whole sequence at once."""

    def __init__(self, what: str, way_out: str = "build it with causal=True, or call forward on whole sequences"):
        super().__init__(f"{what} is bidirectional: it has no state to extend, since later tokens change earlier outputs; {way_out}")


def an(name: str) -> str:
    """A noun with its article, for messages."""
    return f"{'an' if name[:1] in tuple('AEIOUaeiou') else 'a'} {name}"


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition``."""
    if not condition:
        raise ValueError(message)


def require_positive(**values: int | None) -> None:
    """Each keyword must be an integer of at least 1 (None passes), Python's, NumPy's or PyTorch's."""
    for name, given in values.items():
        value = as_number(given)
        if value is not None and (not is_whole(value) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {given!r}")


def whole_number(name: str, value: Any) -> int | None:
    """``value`` as Python's own int; None stays None.

    Raises:
        ValueError: if it is no integer.
    """
    number = as_number(value)
    if number is not None and not is_whole(number):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return number


def require_batch_size(batch_size: int) -> None:
    """How many rows a state is for: an integer of at least 0, since a batch may be empty."""
    number = as_number(batch_size)
    if not is_whole(number) or number < 0:
        raise ValueError(f"batch_size must be an integer of at least 0, got {batch_size!r}")


def require_probability(**values: float) -> None:
    """Each keyword must be a number in [0, 1)."""
    for name, given in values.items():
        value = as_number(given)
        if not is_number(value) or not 0.0 <= value < 1.0:
            raise ValueError(f"{name} is a probability: it must be at least 0 and less than 1, got {given!r}")


def require_above_zero(**values: float) -> None:
    """Each keyword must be a number greater than 0, and not infinite."""
    for name, given in values.items():
        value = as_number(given)
        if not is_number(value) or not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be greater than 0, got {given!r}")


def require_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """``value`` must be one of ``allowed``; the message names the nearest when there is one."""
    choices = list(allowed)
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(repr(choice) for choice in choices)}, got {value!r}{hint}")


def check_sequence(x: Tensor, dim: int, *, name: str = "x") -> None:
    """``x`` must be (B, N, dim) with N of at least 1."""
    if x.dim() != 3 or x.shape[-1] != dim:
        raise ValueError(f"{name} must be (batch, length, {dim}), got {tuple(x.shape)}")
    if x.shape[1] < 1:
        raise ValueError(f"{name} must hold at least one position, got length 0")


def check_mask(mask: Tensor | None, batch: int, length: int, *, name: str = "mask") -> None:
    """``mask`` must be None or bool (B, N), True = real token.

    Raises:
        ValueError: for another dtype or shape; a square (N, N) mask gets a message of its own, since attention here is never masked pair
            by pair.
    """
    if mask is None:
        return
    import torch  # here, since configurations are checked without it

    if mask.dtype is not torch.bool:
        raise ValueError(f"{name} must be bool with True = real token, got dtype {mask.dtype}; convert with {name}.bool()")
    if mask.shape == (batch, length):
        return
    if mask.dim() == 2 and mask.shape[0] == mask.shape[1] == length:
        raise ValueError(
            f"{name} must be (batch, length) = {(batch, length)}, got {tuple(mask.shape)}: pairwise (N, N) masks do not exist for "
            f"sub-quadratic attention; for autoregressive models use causal=True, and pass only which tokens are real"
        )
    raise ValueError(f"{name} must be (batch, length) = {(batch, length)}, True = real token, got {tuple(mask.shape)}")
