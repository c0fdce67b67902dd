"""Predicting the next token, with everything that ``generate`` of transformers does.

Axes: B batch, N length, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .cache import CACHE, SubquadraticCache, one_cache
from .generating import Generating
from .model import SubquadraticModel, real_slots
from .output_map import WithOutputMap
from .packing import find_documents


class SubquadraticForCausalLM(Generating, WithOutputMap):
    """A causal backbone with an output map.

    Args:
        config: of a causal backbone.

    Raises:
        ValueError: if the backbone is bidirectional.
    """

    causal = True
    instead = "AutoModelForMaskedLM"

    @property
    def reader(self) -> SubquadraticModel:
        """The model below the output map."""
        return self.model

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cu_seq_lens_q: Tensor | None = None,
        seq_idx: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the token after each.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, cache, inputs_embeds, encoder_hidden_states,
                encoder_attention_mask, use_cache, cu_seq_lens_q, seq_idx: as :meth:`SubquadraticModel.forward`.
            labels: (B, N) int64, the tokens themselves; -100: not counted. Shifted here; the first token of a packed document is not
                counted, since nothing before it is its own.
            logits_to_keep: of the last slots, 0 for all; or the slots (K,) themselves.
            num_items_in_batch: what the summed loss is divided by; None: the labels counted.
            unused: also ``shift_labels`` (B, N), labels that are shifted already, in place of ``labels``.

        Returns:
            ``logits`` (B, N, V), ``loss`` where there are labels, and ``past_key_values`` where asked for.
        """
        past_key_values = one_cache(past_key_values, cache)
        shift_labels = unused.pop("shift_labels", None)  # not by name: the Trainer takes what has "label" in its name for required
        others = (inputs_embeds, labels, shift_labels, *unused.values())
        last = self._one_token(input_ids, attention_mask, past_key_values, use_cache, others)
        if last is not None:
            return CausalLMOutputWithPast(logits=last, **{CACHE: past_key_values})
        keep = logits_to_keep if isinstance(logits_to_keep, int) else 0
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            cu_seq_lens_q=cu_seq_lens_q,
            seq_idx=seq_idx,
            outputs_to_keep=keep,
            rule=None if labels is None and shift_labels is None else "blocks",
            **unused,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        if isinstance(logits_to_keep, int):
            logits = self._with_last(logits, attention_mask, outputs.get(CACHE), hidden.shape[1])
        loss = None
        if labels is not None or shift_labels is not None:
            if labels is not None:
                labels = self._without_first(labels, attention_mask, position_ids, cu_seq_lens_q, seq_idx)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.vocab_size, num_items_in_batch=num_items_in_batch, shift_labels=shift_labels
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: outputs.get(CACHE)})

    def _without_first(self, labels: Tensor, mask: Tensor | None, *bounds: Tensor | None) -> Tensor:
        """Labels without the first token of each packed document."""
        position_ids, cu_seqlens, seq_idx = bounds
        batch, length = labels.shape
        real = real_slots(mask, batch, length, 0)
        documents = find_documents(batch, length, mask=real, position_ids=position_ids, cu_seqlens=cu_seqlens, seq_idx=seq_idx, seen=0)
        return labels if documents is None else labels.masked_fill(documents.starts(), -100)
