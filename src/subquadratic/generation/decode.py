"""The decoding loop: read the prompt once, then one token at a time through the model's state.

Works on anything with ``init_state`` and ``extend(tokens, state, mask=..., last_only=True) -> (logits, state)``.

Axes: B batch, N length of the prompt, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.errors import check_mask, require_positive
from ..ops.state import State
from .sampling import check_sampling, sample


def stream(
    model: nn.Module,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    mask: Tensor | None = None,
    state: State | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token: int | None = None,
    pad_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """New tokens, one step at a time.

    Args:
        model: causal; put into eval mode meanwhile, and back afterwards.
        prompt: (B, N) int64, N at least 1.
        max_new_tokens: stop after so many.
        mask: (B, N) bool, True = real token; pad short prompts on the left.
        state: what the model has read before the prompt; None: nothing.
        temperature, top_k, top_p, generator: see :func:`~subquadratic.generation.sampling.sample`.
        eos_token: a row that has produced it is finished; generation stops when all are.
        pad_token: what finished rows get; None: ``eos_token``.

    Yields:
        (B,) int64 per step.

    Raises:
        ValueError: for options out of range, or a prompt of the wrong shape.
        NotCausalError: if the model is bidirectional.
    """
    if prompt.dim() != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be (batch, length) with at least one token, got {tuple(prompt.shape)}")
    check_mask(mask, prompt.shape[0], prompt.shape[1])
    require_positive(max_new_tokens=max_new_tokens)
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    return _steps(
        model,
        prompt,
        max_new_tokens,
        mask,
        state,
        eos_token,
        pad_token,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
    )


def _steps(
    model: Any,
    prompt: Tensor,
    max_new_tokens: int,
    mask: Tensor | None,
    state: State | None,
    eos_token: int | None,
    pad_token: int | None,
    **options: Any,
) -> Iterator[Tensor]:
    was_training = model.training
    model.eval()
    try:
        finished = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
        tokens = prompt
        for _ in range(max_new_tokens):
            with torch.no_grad():  # not around the yield: the caller's own mode is none of ours
                if state is None:
                    state = model.init_state(prompt.shape[0])
                logits, state = model.extend(tokens, state, mask=mask, last_only=True)
                chosen = sample(logits[:, -1], **options)
                mask = None
                if eos_token is not None:
                    chosen = torch.where(finished, eos_token if pad_token is None else pad_token, chosen)
                    finished = finished | (chosen == eos_token)
            yield chosen
            if eos_token is not None and bool(finished.all()):
                return
            tokens = chosen[:, None]
    finally:
        model.train(was_training)


def generate(model: nn.Module, prompt: Tensor, **options: Any) -> Tensor:
    """The prompt and what follows: (B, N) -> (B, N + new). Options as in :func:`stream`."""
    return torch.cat((prompt, *(tokens[:, None] for tokens in stream(model, prompt, **options))), dim=1)
