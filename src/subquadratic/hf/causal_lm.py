"""Predicting the next token, with everything that ``generate`` of transformers does.

Axes: B batch, N length, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ..core.errors import require
from ..generation.recorded_steps import Steps
from ..heads.initial_weights import start_uniform_
from ..heads.language_model import LanguageModel
from ..layers.untouched import is_untouched
from .cache import SubquadraticCache
from .configuration import SubquadraticConfig
from .model import SubquadraticModel, real_slots
from .packing import find_documents
from .pretrained import SubquadraticPreTrainedModel, require_causal


class SubquadraticForCausalLM(SubquadraticPreTrainedModel, GenerationMixin):
    """A causal backbone with an output map.

    Args:
        config: of a causal backbone.

    Raises:
        ValueError: if the backbone is bidirectional.
    """

    saved_class = "LanguageModel"
    _tied_weights_keys = {"lm_head.weight": "model.embedding.table.weight"}

    def __init__(self, config: SubquadraticConfig):
        require_causal(config, True, type(self).__name__, "AutoModelForMaskedLM")
        super().__init__(config)
        self.model = SubquadraticModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if not config.tie_word_embeddings:
            start_uniform_(self.model.norm, self.lm_head, self.model.embedding, vocab_size=config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output map."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output map in its place."""
        self.lm_head = new_embeddings  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: SubquadraticCache | None = None,
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
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, encoder_hidden_states, encoder_attention_mask, use_cache,
                cu_seq_lens_q, seq_idx, unused: as :meth:`SubquadraticModel.forward`.
            labels: (B, N) int64, the tokens themselves; -100: not counted. Shifted here; the first token of a packed document is not
                counted, since nothing before it is its own.
            logits_to_keep: of the last slots, 0 for all; or the slots (K,) themselves.
            num_items_in_batch: what the summed loss is divided by; None: the labels counted.

        Returns:
            ``logits`` (B, N, V), ``loss`` where there are labels, and ``past_key_values`` where asked for.
        """
        last = self._one_token(input_ids, attention_mask, past_key_values, inputs_embeds, labels, use_cache, unused)
        if last is not None:
            return CausalLMOutputWithPast(logits=last, past_key_values=past_key_values)
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
            whole=labels is not None,
            **unused,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            labels = self._without_first(labels, attention_mask, position_ids, cu_seq_lens_q, seq_idx)
            loss = self.loss_function(logits, labels, self.vocab_size, num_items_in_batch=num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def _without_first(self, labels: Tensor, mask: Tensor | None, *bounds: Tensor | None) -> Tensor:
        """Labels without the first token of each packed document."""
        position_ids, cu_seqlens, seq_idx = bounds
        batch, length = labels.shape
        real = real_slots(mask, batch, length, 0)
        documents = find_documents(batch, length, mask=real, position_ids=position_ids, cu_seqlens=cu_seqlens, seq_idx=seq_idx, seen=0)
        return labels if documents is None else labels.masked_fill(documents.starts(), -100)

    def _one_token(
        self,
        tokens: Tensor | None,
        mask: Tensor | None,
        cache: Any,
        vectors: Tensor | None,
        labels: Tensor | None,
        use_cache: bool | None,
        others: dict[str, Any],
    ) -> Tensor | None:
        """Logits (B, 1, V) of one more token by the recorded step of our own ``generate``; None where that may not run, or nothing has
        been read yet: only where nobody listens to the modules that it passes by, or stands in their place."""
        if (
            vectors is not None
            or labels is not None
            or type(cache) is not SubquadraticCache
            or tokens is None
            or tokens.shape[1] != 1
            or torch.is_grad_enabled()
            or use_cache is False
            or self.training
            or any(value is not None and value is not False for name, value in others.items() if name != "return_dict")
            or not is_untouched(self.model, SubquadraticModel)
        ):
            return None
        layer = cache.layer
        state = layer.reached
        if not layer.is_initialized or len(tokens) != layer.rows or real_slots(mask, len(tokens), 1, layer.seen_tokens) is not None:
            return None
        if layer.steps is None or layer.steps.model is not self._own():
            layer.steps = Steps(self._own())
        logits, reached = layer.steps.read(tokens, state)
        layer.store(reached, None, 1, rows=len(tokens))
        return logits[:, None]

    def _own(self) -> LanguageModel:
        """A LanguageModel of the very modules of this model, for what is written for one."""
        own = self.__dict__.get("_own_model")
        head: Any = self.lm_head
        if is_untouched(head, nn.Linear) and head.weight is getattr(self.get_input_embeddings(), "weight", None):
            head = None  # the table itself
        parts = {"embedding": self.model.embedding, "backbone": self.model.backbone, "norm": self.model.norm, "head": head}
        if own is None or any(getattr(own, name) is not part for name, part in parts.items()):
            own = LanguageModel.__new__(LanguageModel)
            nn.Module.__init__(own)
            own.config, own.vocab_size = self.config.backbone_config, self.vocab_size
            own.tie_embeddings = head is None
            for name, part in parts.items():
                setattr(own, name, part)
            own.training = False
            self.__dict__["_own_model"] = own  # beside the modules: it has none of its own
        return own

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As of transformers, but never a token a second time.

        Raises:
            ValueError: if the cache holds the whole prompt, or more: what it says of the next token was given back with it.
        """
        if past_key_values is not None and next_sequence_length is not None and next_sequence_length <= 0:
            held = past_key_values.get_seq_length()
            raise ValueError(
                f"past_key_values holds {held} tokens, and the prompt has {held + next_sequence_length}: a state cannot read a token twice, nor "
                "forget one. Pass what `generate` returned together, sequences and past_key_values (which lacks the last token), with "
                "new tokens after it; or a copy of the cache (copy.deepcopy) made before the last token was read"
            )
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, past_key_values=past_key_values, **kwargs
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """A SubquadraticCache, whatever ``cache_implementation`` says: there is one kind.

        Raises:
            ValueError: if prompt and new tokens have more positions than the model.
        """
        given = model_kwargs.get("past_key_values")
        require(
            given is None or isinstance(given, SubquadraticCache),
            f"past_key_values must be a SubquadraticCache, which `generate` and forward give back, got {type(given).__name__}",
        )
        self._check_room(model_kwargs.get("attention_mask"), max_cache_length)
        if given is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = SubquadraticCache(self.model.max_length)

    def _check_room(self, mask: Tensor | None, slots: int) -> None:
        limit = self.model.max_length
        if limit is None:
            return
        padded = 0 if mask is None else mask.shape[1] - int(mask.sum(dim=1).max())
        require(
            slots - padded <= limit,
            f"prompt and new tokens take {slots - padded} positions, but this model has max_position_embeddings={limit}: ask for fewer "
            "new tokens (max_new_tokens), or shorten the prompt",
        )
