"""A backbone with token embedding and output head: predicts the next token, or masked tokens when bidirectional.

Axes: B batch, N length, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from .. import generation
from ..core.errors import check_mask
from ..core.padding import count_on, count_real
from ..core.scalars import plain_scalars
from ..core.state import State, state
from ..generation.recorded_steps import read_by_recording
from ..generation.room import check_room
from ..layers.linear.op import linear
from ..layers.norms.layer import sum_and_norm
from ..layers.streaming import Carry, default_device, part_with
from ..layers.untouched import is_untouched
from ..models.config import BackboneConfig
from .cross_entropy import IGNORE, chunked_cross_entropy, chunked_token_losses
from .embedding import TokenEmbedding, final_norm, read
from .initial_weights import draw_weights_, start_uniform_
from .saving import Pretrained
from .stretches import goes_in_stretches, loss_of_stretches, summed
from .targets import align_targets, both_masks, choose_masked, last_outputs, masked_share, next_tokens, predicted, valid_outputs


@state
class LanguageModelState(State):
    """What a language model remembers of the preceding tokens."""

    backbone: State
    seen: Tensor  # (B,) int64, real tokens so far


class LanguageModel(Pretrained):
    """Logits over a vocabulary at every position, from any backbone.

    Args:
        config: the backbone's configuration.
        vocab_size: V; 256 for bytes.
        max_length: the most positions a sequence may have; required for learned and axial positions. None: only the backbone's limit.
        tie_embeddings: the output map is the token table.

    Raises:
        ValueError: for values out of range.

    A Perceiver AR gives outputs for its last positions only, aligned right.
    """

    @plain_scalars
    def __init__(self, config: BackboneConfig, *, vocab_size: int = 256, max_length: int | None = None, tie_embeddings: bool = False):
        super().__init__()
        self.config, self.vocab_size, self.tie_embeddings = config, vocab_size, tie_embeddings
        self.embedding = TokenEmbedding(config, vocab_size=vocab_size, max_length=max_length, maskable=not config.causal)
        self.backbone: Any = config.build()
        self.norm = final_norm(config)
        self.head = None if tie_embeddings else nn.Linear(config.dim, vocab_size, bias=False)
        draw_weights_(self)
        start_uniform_(self.norm, self.head, self.embedding, vocab_size=vocab_size)

    @property
    def max_length(self) -> int | None:
        """Maximum sequence length; None: no limit."""
        return part_with(self.embedding, "max_length").max_length

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        masked: Tensor | None = None,
        carry: Carry | None = None,
        last_only: bool = False,
        **arguments: Any,
    ) -> Tensor:
        """Logits of a whole sequence.

        Args:
            tokens: (B, N) int64 in [0, V).
            mask: (B, N) bool, True = real token; padding may be anywhere.
            masked: (B, N) bool, True = hidden from the model ([MASK]); bidirectional models only.
            carry: the state of a stream, of which ``tokens`` are the next ones: see ``extend``.
            last_only: logits of each row's last real token only, (B, 1, V).
            arguments: ``context`` and ``context_mask`` for models with cross-attention, ``latents`` for a Perceiver AR.

        Returns:
            (B, N, V), zero at padded positions; a Perceiver AR: (B, min(N, latents), V), each row's last real positions, aligned right.

        Raises:
            ValueError: for wrong shapes, tokens out of range, more positions than ``max_length``.
        """
        x, valid = self._outputs(tokens, mask, masked, carry, arguments)
        if last_only:
            x, valid = last_outputs(x, valid)
        return self._logits(_normed(self.norm, x, valid))

    def hidden(self, tokens: Tensor, *, mask: Tensor | None = None, masked: Tensor | None = None, **arguments: Any) -> Tensor:
        """As ``forward``, but the normed hidden states (B, N, D) that the output map would read."""
        return _normed(self.norm, *self._outputs(tokens, mask, masked, None, arguments))

    def loss(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        scored: Tensor | None = None,
        mask_probability: float = 0.15,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Mean cross-entropy in nats per predicted token; the logits of the whole sequence are never materialised.

        Args:
            tokens: (B, N) int64.
            mask: (B, N) bool, True = real token.
            scored: (B, N) bool, True = a token that may be predicted; None: all. The others are read, but not scored.
            mask_probability: fraction of each row's tokens that a bidirectional model must predict (at least one).
            generator: chooses those, on the device of ``tokens``.
            arguments: as in ``forward``.

        Returns:
            A scalar. Causal: every token from those before it (a Perceiver AR: its last ``latents`` tokens). Bidirectional: hidden tokens.
            0, with zero gradients, where no token is predicted, as in an empty batch; PyTorch's mean of nothing is NaN.

        Raises:
            ValueError: if a causal model gets a single token, which leaves nothing to predict.
        """
        masked = None
        if not self.config.causal:
            masked = choose_masked(tokens, both_masks(mask, scored), mask_probability, generator)
        elif mask is None and not arguments and goes_in_stretches(tokens, self.embedding, self.backbone, self.norm):
            inputs, targets, _ = predicted(tokens, None, scored, self.vocab_size)
            return loss_of_stretches(self, inputs, targets, self._loss_of_stretch)
        hidden, targets = self._predictions(tokens, mask, scored, masked, arguments)
        return chunked_cross_entropy(hidden.flatten(0, 1), self._output(hidden), targets.flatten(), vocab_size=self.vocab_size)

    @torch.no_grad()
    def count_predictions(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        scored: Tensor | None = None,
        mask_probability: float = 0.15,
        latents: int | None = None,
        **arguments: Any,
    ) -> Tensor:
        """How many tokens ``loss`` is the mean of, without running the model: the weight of a batch among others, where gradients of
        several are accumulated, or of several processes averaged.

        Args:
            tokens, mask, scored, mask_probability, latents, arguments: as in ``loss``.

        Returns:
            A scalar, int64, on the device of ``tokens``; 0 where nothing is scored.
        """
        if not self.config.causal:
            real = count_real(both_masks(mask, scored), tokens.shape[0], tokens.shape[1], tokens.device)
            return masked_share(real, mask_probability).sum()
        wanted = tokens if scored is None else tokens.masked_fill(~scored, IGNORE)
        inputs, targets, mask = next_tokens(tokens, wanted, mask)
        length = inputs.shape[1]
        if self.config.aligned_right:
            length = min(length, latents or self.config.latents)  # type: ignore[attr-defined]
        return (align_targets(targets, mask, length, self.config) != IGNORE).sum()

    @torch.no_grad()
    def token_losses(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        scored: Tensor | None = None,
        masked: Tensor | None = None,
        **arguments: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What ``loss`` averages, one by one and without gradients.

        Args:
            tokens, mask, scored, arguments: as in ``loss``.
            masked: (B, N) bool, the hidden tokens of a bidirectional model; required for one.

        Returns:
            Three tensors (T,), row by row: nats, whether the most likely token was right, and the tokens predicted.
        """
        if not self.config.causal and masked is None:
            raise ValueError("masked is required for a bidirectional model: which tokens are hidden and to be guessed")
        hidden, targets = self._predictions(tokens, mask, scored, masked, arguments)
        targets = targets.flatten()
        counted = targets != IGNORE
        nats, right = chunked_token_losses(
            hidden.flatten(0, 1)[counted], self._output(hidden), targets[counted], vocab_size=self.vocab_size
        )
        return nats, right, targets[counted]

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LanguageModelState:
        """The state before the first token; arguments as in the backbone's ``init_state``.

        Raises:
            NotCausalError: if the model is bidirectional.
        """
        context_arguments = {} if context is None else {"context": context, "context_mask": context_mask}
        backbone = part_with(self.backbone, "init_state")
        before = backbone.init_state(batch_size, device=device, dtype=dtype, **context_arguments)
        place, _ = default_device(self, device, dtype)
        return LanguageModelState(before, torch.zeros(batch_size, dtype=torch.int64, device=place))

    def extend(
        self, tokens: Tensor, state: LanguageModelState, *, mask: Tensor | None = None, last_only: bool = False
    ) -> tuple[Tensor, LanguageModelState]:
        """The next tokens, any number from 1.

        Args:
            tokens: (B, N) int64.
            state: from ``init_state`` or an earlier ``extend``; not changed.
            mask: (B, N) bool, True = real token.
            last_only: logits of each row's last real token only.

        Returns:
            Logits (B, N, V), or (B, 1, V), and the state after. Single tokens without gradients and mask go by a recording of what the
            call does, from the fifth on.
        """
        if mask is None and not torch.is_grad_enabled() and tokens.shape[1:] == (1,):
            found = read_by_recording(self, tokens, state)
            if found is not None:
                return found
        return self.extend_by_call(tokens, state, mask=mask, last_only=last_only)

    def extend_by_call(self, tokens: Tensor, state: LanguageModelState, **options: Any) -> tuple[Tensor, LanguageModelState]:
        """``extend``, never by a recording."""
        return self._carried(tokens, state=state, **options)

    def generate(self, prompt: Tensor, *, max_new_tokens: int = 64, **options: Any) -> Any:
        """The prompt and its continuation: (B, N) -> (B, N + new).

        Args:
            prompt: (B, N) int64, N at least 1.
            max_new_tokens: the most new tokens.
            options: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``, ``banned``, ``eos_token``, ``stop``,
                ``samples``, ``mask``, ``state``, ``generator``, ``return_log_probs`` ...: see :func:`subquadratic.generation.stream`.

        Raises:
            ValueError: also if the result would have more positions than ``max_length``; says what fits.
            TypeError: for an unknown option.
        """
        check_room(self.max_length, prompt, max_new_tokens, mask=options.get("mask"), state=options.get("state"))
        return generation.generate(self, prompt, max_new_tokens=max_new_tokens, **options)

    def stream(self, prompt: Tensor, *, max_new_tokens: int = 64, **options: Any) -> Iterator[Any]:
        """As ``generate``, but yields the new tokens one step at a time, (B,) each."""
        check_room(self.max_length, prompt, max_new_tokens, mask=options.get("mask"), state=options.get("state"))
        return generation.stream(self, prompt, max_new_tokens=max_new_tokens, **options)

    def options(self) -> dict[str, Any]:
        """What the model was built with, as plain values."""
        return {
            "config": self.config.to_dict(),
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "tie_embeddings": self.tie_embeddings,
        }

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """A model from what ``options`` gave."""
        options = dict(options)
        return cls(BackboneConfig.from_dict(options.pop("config")), **options)

    def _outputs(
        self, tokens: Tensor, mask: Tensor | None, masked: Tensor | None, carry: Carry | None, arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The backbone's outputs (B, N', D), with the state after in ``carry``, and which of them belong to real tokens; None: all."""
        state = None if carry is None else carry.before
        x, after = read(self.embedding, self.backbone, tokens, mask=mask, masked=masked, state=state, **arguments)
        if carry is not None:
            carry.after = LanguageModelState(after, count_on(carry.before.seen, mask, tokens.shape[1]))
        return x, valid_outputs(mask, x.shape[1], self.config)

    def _logits(self, hidden: Tensor) -> Tensor:
        output = self._output(hidden)
        return linear(hidden, output) if isinstance(output, Tensor) else output(hidden)

    def _predictions(
        self, tokens: Tensor, mask: Tensor | None, scored: Tensor | None, masked: Tensor | None, arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, N', D) and what they have to predict, (B, N'), -100 where nothing."""
        if not self.config.causal:
            check_mask(scored, tokens.shape[0], tokens.shape[-1], name="scored")
            hidden = self.hidden(tokens, mask=mask, masked=masked, **arguments)
            counted = masked if scored is None or masked is None else masked & scored
            return hidden, tokens if counted is None else tokens.masked_fill(~counted, IGNORE)
        inputs, targets, mask = predicted(tokens, mask, scored, self.vocab_size)
        hidden = self.hidden(inputs, mask=mask, **arguments)
        return hidden, align_targets(targets, mask, hidden.shape[1], self.config)

    def _loss_of_stretch(self, tokens: Tensor, targets: Tensor, state: LanguageModelState) -> tuple[Tensor, LanguageModelState]:
        """The summed nats of the next tokens of a stream, and its state after."""
        carry = Carry(state)
        hidden = _normed(self.norm, *self._outputs(tokens, None, None, carry, {}))
        mean = chunked_cross_entropy(hidden.flatten(0, 1), self._output(hidden), targets.flatten(), vocab_size=self.vocab_size)
        return summed(mean, targets), carry.after

    def _output(self, hidden: Tensor) -> Tensor | nn.Module:
        """The output map: its weight (V, D), where nobody would notice that it is not called; else the module."""
        if self.head is None:
            return part_with(self.embedding, "output_weight").output_weight(hidden)
        if is_untouched(self.head, nn.Linear) and self.head.bias is None:
            return self.head.weight
        return self.head


def _normed(norm: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
    both = sum_and_norm(norm, x, None)
    x = norm(x) if both is None else both[1]
    return x if valid is None else x.masked_fill(~valid[..., None], 0.0)
