"""The published models as something that the decoding loop can drive, for `subq generate` on a converted checkpoint.

Axes: B batch, N length, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import generation
from ..core.errors import NotCausalError
from ..core.state import State, state


@state
class TokensState(State):
    """The tokens so far, at most as many as the model was built for: a twin reads them anew for each token."""

    tokens: Tensor  # (B, N) int64


class Continuation(nn.Module):
    """A causal language model of a published package, with the ``init_state`` and ``extend`` of the core.

    Each token costs one forward pass, as it did in the published samplers: windows slide once ``max_seq_len`` tokens are there.

    Args:
        model: a PerformerLM with ``causal=True``, a FeedbackTransformer or a PerceiverAR of ``subquadratic.compat``.

    Raises:
        NotCausalError: for a bidirectional model.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        name = type(model).__name__
        if name not in ("PerformerLM", "FeedbackTransformer", "PerceiverAR") or not getattr(model, "causal", True):
            raise NotCausalError(f"this {name}", "only a causal language model can continue a text")
        self.model: Any = model
        twin: Any = model
        self.vocab_size: int = twin.token_emb.weight.shape[0]
        self.max_seq_len: int | None = getattr(twin, "max_seq_len", None)

    def init_state(self, batch_size: int) -> TokensState:
        """Nothing read yet."""
        return TokensState(torch.zeros(batch_size, 0, dtype=torch.int64, device=self.model.token_emb.weight.device))

    def extend(
        self, tokens: Tensor, state: TokensState, *, mask: Tensor | None = None, last_only: bool = True
    ) -> tuple[Tensor, TokensState]:
        """The next tokens (B, N) -> logits of the last one (B, 1, V), and the tokens so far.

        Raises:
            ValueError: for a mask, or ``last_only=False``, which this does not offer.
        """
        if mask is not None or not last_only:
            raise ValueError("a converted model continues unpadded prompts, and gives the last logits only: pass mask=None, last_only=True")
        everything = torch.cat((state.tokens, tokens), dim=1)
        if self.max_seq_len is not None:
            everything = everything[:, -self.max_seq_len :]
        return self.model(everything)[:, -1:], TokensState(everything)

    def stream(self, prompt: Tensor, **options: Any) -> Iterator[Any]:
        """New tokens (B,) one step at a time; options as in :func:`subquadratic.generation.stream`."""
        # Read in pieces, a prompt would go through the model once for each of them.
        return generation.stream(self, prompt, **{"piece": max(prompt.shape[-1], 1), **options})
