"""An encoder and a decoder that reads it by cross-attention: sequence to sequence.

Axes: B batch, N length of the target, S length of the source, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from ..core.errors import require
from ..core.scalars import plain_scalars
from ..layers.modes import evaluating
from ..layers.streaming import part_with
from ..models.config import BackboneConfig
from .embedding import TokenEmbedding, final_norm
from .initial_weights import draw_weights_
from .language_model import LanguageModel, LanguageModelState
from .saving import Pretrained
from .targets import valid_outputs


class EncoderDecoder(Pretrained):
    """Any backbone that gives every position as encoder; any causal one with cross-attention as decoder.

    Args:
        encoder_config: of the encoder; usually ``causal=False``.
        decoder_config: of the decoder, with ``cross_attention=True`` (and ``context_dim`` = the encoder's dim, where they differ).
        vocab_size: V of the source, and of the target unless ``target_vocab_size`` says otherwise.
        target_vocab_size: of the target; None: ``vocab_size``.
        max_length: the most source positions; required for learned and axial positions of the encoder.
        target_max_length: the same for the target; None: ``max_length``.
        tie_embeddings: the output map is the target's token table.

    Raises:
        ValueError: for values out of range, or configurations that do not fit together.
    """

    @plain_scalars
    def __init__(
        self,
        encoder_config: BackboneConfig,
        decoder_config: BackboneConfig,
        *,
        vocab_size: int = 256,
        target_vocab_size: int | None = None,
        max_length: int | None = None,
        target_max_length: int | None = None,
        tie_embeddings: bool = False,
    ):
        super().__init__()
        require(
            not encoder_config.aligned_right,
            f"encoder_config must give every position; {encoder_config.model_type} gives its last ones only",
        )
        require(decoder_config.causal, "decoder_config must be causal, got causal=False")
        require(getattr(decoder_config, "cross_attention", False), f"decoder_config must have cross_attention=True, got {decoder_config!r}")
        width = getattr(decoder_config, "context_dim", None) or decoder_config.dim
        require(
            width == encoder_config.dim,
            f"decoder_config must read the encoder's width {encoder_config.dim}: set context_dim={encoder_config.dim}, got {width}",
        )
        self.encoder_config, self.decoder_config = encoder_config, decoder_config
        self.embedding = TokenEmbedding(encoder_config, vocab_size=vocab_size, max_length=max_length)
        self.encoder = encoder_config.build()
        self.norm = final_norm(encoder_config)
        self.decoder = LanguageModel(
            decoder_config,
            vocab_size=target_vocab_size or vocab_size,
            max_length=target_max_length or max_length,
            tie_embeddings=tie_embeddings,
        )
        draw_weights_(self.embedding)  # the decoder drew its own
        draw_weights_(self.encoder)

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """What the decoder reads: (B, S) tokens -> (B, S, D), zero at padded positions."""
        x = self.norm(self.encoder(self.embedding(source, mask=mask), mask=mask))
        valid = valid_outputs(mask, x.shape[1], self.encoder_config)
        return x if valid is None else x.masked_fill(~valid[..., None], 0.0)

    def forward(self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, target_mask: Tensor | None = None) -> Tensor:
        """Logits of the target.

        Args:
            source: (B, S) int64.
            target: (B, N) int64; position i predicts token i + 1.
            source_mask, target_mask: (B, S) and (B, N) bool, True = real token.

        Returns:
            (B, N, V), zero at padded positions.
        """
        return self.decoder(target, mask=target_mask, context=self.encode(source, mask=source_mask), context_mask=source_mask)

    def loss(self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, target_mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats per target token after the first, given the source and the target tokens before."""
        return self.decoder.loss(target, target_mask, context=self.encode(source, mask=source_mask), context_mask=source_mask)

    def count_predictions(
        self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None, target_mask: Tensor | None = None
    ) -> Tensor:
        """How many target tokens ``loss`` is the mean of: see :meth:`LanguageModel.count_predictions`."""
        return self.decoder.count_predictions(target, target_mask)

    def init_state(
        self,
        batch_size: int | None = None,
        *,
        source: Tensor,
        source_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LanguageModelState:
        """The decoder's state before the first target token: the source is encoded and read here, once.

        Args:
            batch_size: None: that of ``source``.
            source: (B, S) int64.
            source_mask: (B, S) bool.
        """
        require(
            batch_size is None or batch_size == source.shape[0], f"batch_size must be that of source, {source.shape[0]}, got {batch_size}"
        )
        context = self.encode(source, mask=source_mask)
        place = context.device if device is None else device
        return self.decoder.init_state(source.shape[0], context=context, context_mask=source_mask, device=place, dtype=dtype)

    def extend(
        self, target: Tensor, state: LanguageModelState, *, mask: Tensor | None = None, last_only: bool = False
    ) -> tuple[Tensor, LanguageModelState]:
        """The next target tokens, as :meth:`LanguageModel.extend`."""
        return self.decoder.extend(target, state, mask=mask, last_only=last_only)

    def generate(
        self, source: Tensor, prompt: Tensor, *, max_new_tokens: int = 64, source_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """The target's beginning and what follows.

        Args:
            source: (B, S) int64.
            prompt: (B, N) int64, the target's first tokens (a start token, say).
            source_mask: (B, S) bool, True = real token.
            max_new_tokens, options: as in :func:`subquadratic.generation.stream`.

        Returns:
            (B, N + new) int64; with ``samples`` more rows, with ``return_log_probs`` a pair.

        Raises:
            ValueError: as :meth:`LanguageModel.generate`.
        """
        state = self._read_source(source, source_mask)
        return self.decoder.generate(prompt, max_new_tokens=max_new_tokens, state=state, **options)

    def stream(
        self, source: Tensor, prompt: Tensor, *, max_new_tokens: int = 64, source_mask: Tensor | None = None, **options: Any
    ) -> Iterator[Any]:
        """As ``generate``, but yields the new tokens one step at a time, (B,) each."""
        state = self._read_source(source, source_mask)
        return self.decoder.stream(prompt, max_new_tokens=max_new_tokens, state=state, **options)

    @torch.no_grad()
    def _read_source(self, source: Tensor, mask: Tensor | None) -> LanguageModelState:
        """The decoder's state once the source is read, without dropout."""
        with evaluating(self):
            return self.init_state(source=source, source_mask=mask)

    def options(self) -> dict[str, Any]:
        """What the model was built with, as plain values."""
        embedding = part_with(self.embedding, "vocab_size")
        return {
            "encoder_config": self.encoder_config.to_dict(),
            "decoder_config": self.decoder_config.to_dict(),
            "vocab_size": embedding.vocab_size,
            "target_vocab_size": self.decoder.vocab_size,
            "max_length": embedding.max_length,
            "target_max_length": self.decoder.max_length,
            "tie_embeddings": self.decoder.tie_embeddings,
        }

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """A model from what ``options`` gave."""
        options = dict(options)
        encoder_config = BackboneConfig.from_dict(options.pop("encoder_config"))
        decoder_config = BackboneConfig.from_dict(options.pop("decoder_config"))
        return cls(encoder_config, decoder_config, **options)
