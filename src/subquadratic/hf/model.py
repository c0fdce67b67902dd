"""Any backbone of ours as a model of transformers: tokens in, hidden states at every position out.

Axes: B batch, N length, P slots in a cache, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from ..core.errors import require
from ..core.padding import count_on, zero_padding
from ..core.tracing import may_look
from ..generation.recorded_steps import Reached
from ..heads.embedding import TokenEmbedding, final_norm, read
from ..heads.initial_weights import draw_weights_, start_uniform_
from ..heads.language_model import LanguageModelState
from ..heads.targets import last_outputs
from ..layers.streaming import default_device, part_with
from . import right_aligned
from .cache import CACHE, SubquadraticCache, one_cache
from .configuration import SubquadraticConfig
from .packing import Documents, find_documents, put_back, unpacked
from .pretrained import SubquadraticPreTrainedModel, refuse


class SubquadraticModel(SubquadraticPreTrainedModel):
    """Embedding, backbone and final norm: (B, N) tokens -> ``last_hidden_state`` (B, N, D), which an output map reads as it is.

    Args:
        config: of any backbone, causal or bidirectional.
        maskable: have a [MASK] vector, with a bidirectional backbone.
    """

    def __init__(self, config: SubquadraticConfig, *, maskable: bool = True):
        super().__init__(config)
        backbone = config.backbone_config
        self.embedding = TokenEmbedding(
            backbone,
            vocab_size=config.vocab_size,
            max_length=config.position_limit,
            maskable=maskable and not backbone.causal,
        )
        self.backbone: Any = backbone.build()
        self.norm = final_norm(backbone)
        draw_weights_(self)
        if config.tie_word_embeddings:
            start_uniform_(self.norm, None, self.embedding, vocab_size=config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token table."""
        return part_with(self.embedding, "table").table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another token table in its place."""
        embedding = part_with(self.embedding, "table")
        embedding.table = value
        embedding.vocab_size = getattr(value, "num_embeddings", embedding.vocab_size)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: SubquadraticCache | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        seq_idx: Tensor | None = None,
        masked: Tensor | None = None,
        outputs_to_keep: int = 0,
        rule: str | None = None,
        **unused: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the final norm.

        Args:
            input_ids: (B, N) int64 in [0, V); anything at padded slots. ``mask_token_id`` is a hidden token of a bidirectional model.
            attention_mask: (B, N), or (B, P + N) with what the cache holds; 0 = padding, which may be anywhere.
            position_ids: (B, N): where they begin again at 0, another document begins, which sees nothing of the one before. Else they must
                be what follows from the mask.
            past_key_values, cache: of this model, by either name (transformers 5.24 has the second); ``input_ids`` are then the next
                tokens. It is changed.
            inputs_embeds: (B, N, D) in place of ``input_ids``.
            encoder_hidden_states, encoder_attention_mask: (B, S, D) and (B, S), with ``cross_attention=True``; read when a stream begins.
            use_cache: give ``past_key_values``. None: as configured, in eval mode of a causal model and without labels.
            cu_seq_lens_q: (documents + 1,) bounds of documents in a batch of one row, in place of ``position_ids``.
            seq_idx: (B, N), the number of each slot's document, in place of ``position_ids``.
            masked: (B, N) bool, True = hidden, beside ``mask_token_id``.
            outputs_to_keep: outputs at the last slots that are wanted; the others may be zero. 0: all.
            rule: "stream" or "blocks": which outputs a Perceiver AR gives beyond its latents, see :mod:`.right_aligned`; "native": those of
                its own ``forward``, the last ones. None: "blocks" in training, else "stream".
            unused: what collators and trainers send along: ``cu_seq_lens_k``, ``max_length_q``, ``max_length_k`` ...

        Returns:
            ``last_hidden_state`` (B, N, D), zero at padded slots; but the last slot of a causal model has each row's last real output, also
                where it is padding: what generates looks for it there.

        Raises:
            ValueError: for wrong shapes, tokens out of range, positions beyond the limit, and what this model does not give
                (``output_hidden_states``, ``output_attentions``, 4-D masks).
        """
        refuse(unused)
        require((input_ids is None) != (inputs_embeds is None), "give either input_ids or inputs_embeds")
        past_key_values = one_cache(past_key_values, cache)
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        batch, length = given.shape[:2]
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if length == 0 and past_key_values is None and not use_cache:  # an empty text by itself: as an empty row of a batch
            return BaseModelOutputWithPast(last_hidden_state=given.new_zeros(batch, 0, self.config.hidden_size, dtype=self.dtype))
        mask = real_slots(attention_mask, batch, length, seen)
        input_ids, masked = self._hidden_tokens(input_ids, masked)
        arguments = self._context(encoder_hidden_states, encoder_attention_mask, fresh=seen == 0)
        keep, rule = min(outputs_to_keep or length, length), rule or ("blocks" if self.training else "stream")
        documents = find_documents(
            batch, length, mask=mask, position_ids=position_ids, cu_seqlens=cu_seq_lens_q, seq_idx=seq_idx, seen=seen
        )
        if documents is not None:
            require(not arguments, "packed documents cannot be read with encoder_hidden_states: give each document of a batch its own row")
            return BaseModelOutputWithPast(last_hidden_state=self._documents(input_ids, inputs_embeds, masked, documents, rule))
        if self._caches(use_cache, past_key_values, rule):
            cache = SubquadraticCache(self.max_length) if past_key_values is None else past_key_values
            named: dict[str, Any] = {CACHE: cache}
            return BaseModelOutputWithPast(last_hidden_state=self._next(input_ids, inputs_embeds, mask, cache, arguments, keep), **named)
        x = self._whole(input_ids, inputs_embeds, mask, masked, arguments, keep, rule)
        return BaseModelOutputWithPast(last_hidden_state=self._with_last(x, mask))

    @property
    def max_length(self) -> int | None:
        """The most positions of a sequence; None: no limit."""
        return part_with(self.embedding, "max_length").max_length

    def _caches(self, use_cache: bool | None, past_key_values: Any, rule: str) -> bool:
        causal = self.config.causal
        require(
            causal or not (use_cache or past_key_values is not None),
            "a bidirectional model has no cache: later tokens change earlier outputs",
        )
        if use_cache is None:
            return causal and (past_key_values is not None or (self.config.use_cache and not self.training and rule == "stream"))
        return use_cache or past_key_values is not None

    def _hidden_tokens(self, input_ids: Tensor | None, masked: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Tokens, and which of them are [MASK]."""
        if input_ids is None or part_with(self.embedding, "mask_vector").mask_vector is None:
            return input_ids, masked
        hidden = input_ids == (self.config.vocab_size if self.config.mask_token_id is None else self.config.mask_token_id)
        masked = hidden if masked is None else masked | hidden
        return input_ids.masked_fill(hidden, 0), masked

    def _context(self, states: Tensor | None, mask: Tensor | None, *, fresh: bool) -> dict[str, Any]:
        """What the backbone reads by cross-attention, once."""
        crosses = self.config.crosses
        if not crosses:
            require(states is None, "encoder_hidden_states are for a backbone with cross_attention=True")
            return {}
        if not fresh:
            return {}
        require(states is not None, "encoder_hidden_states is required: this backbone has cross_attention=True")
        assert states is not None
        return {"context": states, "context_mask": real_slots(mask, states.shape[0], states.shape[1], 0)}

    def _documents(self, tokens: Tensor | None, vectors: Tensor | None, masked: Tensor | None, documents: Documents, rule: str) -> Tensor:
        """Each document in a row of its own: (B, N, D)."""
        out: Tensor | None = None
        for table in documents.tables():
            mask = table >= 0
            y = self._whole(unpacked(tokens, table), unpacked(vectors, table), mask, unpacked(masked, table), {}, table.shape[1], rule)
            if out is None:
                out = y.new_zeros(*documents.real.shape, y.shape[-1])
            out = put_back(y, table, out)
        assert out is not None
        return out

    def _whole(
        self,
        tokens: Tensor | None,
        vectors: Tensor | None,
        mask: Tensor | None,
        masked: Tensor | None,
        arguments: dict[str, Any],
        keep: int,
        rule: str,
    ) -> Tensor:
        """Whole sequences: (B, N, D)."""
        given: dict[str, Any] = {"mask": mask, "masked": masked, "vectors": vectors}
        latents = self._latents
        length = vectors.shape[1] if tokens is None else tokens.shape[1]  # type: ignore[union-attr]
        if latents is None or length <= latents or rule == "native":
            x, _ = read(self.embedding, self.backbone, tokens, **given, **arguments)
            return self._normed(x if latents is None else _at_slots(x, mask, length), mask)
        x = self.embedding(tokens, **given)
        if rule == "blocks":
            return self._normed(right_aligned.blocks(self.backbone, x, mask, latents), mask)
        state = part_with(self.backbone, "init_state").init_state(x.shape[0], device=x.device, dtype=x.dtype)
        return self._normed(right_aligned.stream(self.backbone, x, mask, state, keep=keep)[0], mask)

    def _next(
        self,
        tokens: Tensor | None,
        vectors: Tensor | None,
        mask: Tensor | None,
        cache: SubquadraticCache,
        context: dict[str, Any],
        keep: int,
    ) -> Tensor:
        """The next slots of a stream: (B, N, D)."""
        given = tokens if vectors is None else vectors
        assert given is not None
        batch, length = given.shape[:2]
        layer = cache.layer
        before = layer.state
        if before is None:
            before = self.init_state(batch, device=given.device, **context)
        require(
            len(before.seen) == batch,
            f"past_key_values holds {len(before.seen)} rows, and the input has {batch}: see its batch_repeat_interleave and "
            "batch_select_indices",
        )
        if self._latents is None:
            x, after = read(self.embedding, self.backbone, tokens, mask=mask, vectors=vectors, state=before)
        else:
            x = self.embedding(tokens, mask=mask, seen=before.seen, vectors=vectors)
            x, after = right_aligned.stream(self.backbone, x, mask, before.backbone, keep=keep)
        layer.store(Reached(LanguageModelState(after, count_on(before.seen, mask, length))), length, rows=batch)
        return self._with_last(self._normed(x, mask), mask)

    def init_state(self, batch_size: int, *, device: torch.device | None = None, **context: Any) -> LanguageModelState:
        """The state before the first token."""
        place, _ = default_device(self, device, None)
        before = part_with(self.backbone, "init_state").init_state(batch_size, device=place, **context)
        return LanguageModelState(before, torch.zeros(batch_size, dtype=torch.int64, device=place))

    @property
    def _latents(self) -> int | None:
        """W of a backbone that gives its last outputs only."""
        return self.config.latents

    def _normed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.norm(x), mask)

    def _with_last(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The outputs, with each row's last real one in the last slot too."""
        if not self.config.causal or mask is None or (may_look(mask) and bool(mask[:, -1].all())):
            return x
        return torch.cat((x[:, :-1], last_outputs(x, mask)[0]), dim=1)


def _at_slots(y: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """Outputs (B, L, D), aligned right, at their slots (B, N, D); zero before."""
    y = nn.functional.pad(y, (0, 0, length - y.shape[1], 0))
    if mask is None:
        return y
    places = length - mask.sum(dim=1, keepdim=True) + mask.cumsum(dim=1) - 1
    return y.gather(1, places.clamp(0, length - 1)[..., None].expand(-1, -1, y.shape[-1]))


def real_slots(mask: Tensor | None, batch: int, length: int, seen: int) -> Tensor | None:
    """(B, N) bool of the new slots, True = real token; None: all.

    Raises:
        ValueError: for a mask that is neither of these slots nor of these and those in the cache.
    """
    if mask is None:
        return None
    require(
        mask.dim() == 2,
        f"attention_mask must be (batch, length), 0 = padding, got {tuple(mask.shape)}: masks of pairs do not exist for sub-quadratic "
        "attention; for packed documents give position_ids that begin again at 0, or cu_seq_lens_q",
    )
    require(
        mask.shape[0] == batch and mask.shape[1] in (length, seen + length),
        f"attention_mask must be (batch, length) = {(batch, length)}"
        + (f", or {(batch, seen + length)} with the {seen} slots in past_key_values" if seen else "")
        + f", got {tuple(mask.shape)}",
    )
    mask = mask[:, -length:] != 0
    return None if may_look(mask) and bool(mask.all()) else mask
