"""Whether a prompt, and what is to follow it, fit into what a model can read."""

from typing import Any

from torch import Tensor

from ..core.errors import require


def check_room(max_length: int | None, prompt: Tensor, max_new_tokens: int, *, mask: Tensor | None, state: Any) -> None:
    """Looks at the longest row only: the decoding loop says what else is wrong.

    Args:
        max_length: the most positions of the model; None: any number.
        prompt: (B, N).
        mask: (B, N) bool, True = real token; None: all.
        state: what the model has read before, with ``seen`` (B,) tokens; None: nothing.

    Raises:
        ValueError: the prompt is too long, or leaves no room for ``max_new_tokens``; says what fits.
    """
    if max_length is None or prompt.dim() != 2 or not len(prompt):
        return
    length = prompt.shape[1] if mask is None else int(mask.sum(dim=1).max())
    length += 0 if state is None else int(state.seen.max())
    room = max_length - length + 1  # the last new token is never read
    require(
        room > 0,
        f"the prompt has {length} tokens, but this model reads at most max_length={max_length}: give it the last "
        f"{max_length} of them or fewer, or use a model without max_length",
    )
    require(
        max_new_tokens <= room,
        f"max_new_tokens must be at most {room} after a prompt of {length} tokens, since max_length={max_length}, got {max_new_tokens}",
    )
