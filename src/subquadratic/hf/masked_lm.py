"""Filling in masked tokens.

Axes: B batch, N length, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import can_return_tuple

from .output_map import WithOutputMap


class SubquadraticForMaskedLM(WithOutputMap):
    """A bidirectional backbone with an output map; ``config.mask_token_id`` in ``input_ids`` is a token to guess.

    Args:
        config: of a bidirectional backbone.

    Raises:
        ValueError: if the backbone is causal.
    """

    causal = False
    instead = "AutoModelForCausalLM"

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **further: Any,
    ) -> MaskedLMOutput:
        """Logits of every token.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, further: as :meth:`SubquadraticModel.forward`.
            labels: (B, N) int64, the tokens to guess; -100: not counted.
            num_items_in_batch: what the summed loss is divided by; None: the labels counted.

        Returns:
            ``logits`` (B, N, V), zero at padded slots, and ``loss`` where there are labels.
        """
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **further
        )
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, num_items_in_batch=num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits)
