"""Classes of whole sequences, and of tokens.

Axes: B batch, N length, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..core.errors import require, require_choice
from ..heads.initial_weights import draw_weights_, start_uniform_
from ..heads.sequence_classifier import POOLINGS
from ..heads.targets import last_outputs
from .configuration import SubquadraticConfig
from .model import SubquadraticModel, real_slots
from .pretrained import SubquadraticPreTrainedModel


class SubquadraticForSequenceClassification(SubquadraticPreTrainedModel):
    """Class logits of a sequence from the mean of its hidden states, or its last one, as :class:`~subquadratic.SequenceClassifier`.

    Args:
        config: of any backbone; ``num_labels`` and ``pooling``. Padding is what ``attention_mask`` says, not what a pad id says.

    Raises:
        ValueError: for an unknown pooling.
    """

    saved_class = "SequenceClassifier"
    head_name = "classifier"
    accepts_loss_kwargs = False  # a mean over rows: the Trainer divides it by its steps of accumulation

    def __init__(self, config: SubquadraticConfig):
        super().__init__(config)
        self.pooling = config.pooling or ("mean" if config.latents is None else "last")
        require_choice("pooling", self.pooling, POOLINGS if config.latents is None else ("last",))
        config.pooling = self.pooling
        self.num_labels = config.num_labels or 2
        self.model = SubquadraticModel(config, maskable=False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        draw_weights_(self.classifier)
        start_uniform_(self.model.norm, self.classifier, self.model.embedding, vocab_size=self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **further: Any,
    ) -> SequenceClassifierOutput:
        """Class logits.

        Args:
            input_ids, attention_mask, inputs_embeds, further: as :meth:`SubquadraticModel.forward`.
            labels: (B,) int64 classes, (B, C) float for several at once, or (B,) float with one label: a regression.

        Returns:
            ``logits`` (B, C), zeros for a row with no real token, and ``loss`` where there are labels.
        """
        _refuse_packed(further)
        hidden = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, use_cache=False, rule="native", **further
        ).last_hidden_state
        mask = real_slots(attention_mask, hidden.shape[0], hidden.shape[1], 0)
        if hidden.shape[1] == 0:  # an empty text: as padding
            hidden = hidden.new_zeros(len(hidden), 1, hidden.shape[2])
            mask = hidden.new_zeros(len(hidden), 1, dtype=torch.bool)
        logits = self.classifier(self._pooled(hidden, mask).to(hidden.dtype))
        if mask is not None:
            logits = logits.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _pooled(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, D)."""
        if self.pooling == "last":
            return last_outputs(hidden, mask)[0][:, 0]
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if mask is None:
            return exact.mean(dim=1)
        return exact.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)


def _refuse_packed(further: dict[str, Any]) -> None:
    for name in ("cu_seq_lens_q", "seq_idx"):
        require(further.get(name) is None, f"{name}: a sequence has one class, so that documents cannot be packed; give each its own row")


class SubquadraticForTokenClassification(SubquadraticPreTrainedModel):
    """A class for every token.

    Args:
        config: of any backbone; ``num_labels``.
    """

    saved_class = None  # there is no such head in our own files
    head_name = "classifier"

    def __init__(self, config: SubquadraticConfig):
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        self.model = SubquadraticModel(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        draw_weights_(self.classifier)
        start_uniform_(self.model.norm, self.classifier, self.model.embedding, vocab_size=self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **further: Any,
    ) -> TokenClassifierOutput:
        """Class logits of every token.

        Args:
            input_ids, attention_mask, inputs_embeds, further: as :meth:`SubquadraticModel.forward`.
            labels: (B, N) int64; -100: not counted.
            num_items_in_batch: what the summed loss is divided by; None: the labels counted.

        Returns:
            ``logits`` (B, N, C), and ``loss`` where there are labels.
        """
        hidden = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, use_cache=False, **further
        ).last_hidden_state
        logits = self.classifier(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(loss=loss, logits=logits)
