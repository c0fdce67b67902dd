"""What `generate` of transformers asks of a model of ours: a cache over its state, the recorded step for single tokens, and refusals.

Axes: B batch, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from ..core.errors import require
from ..generation.recorded_steps import Steps
from ..heads.language_model import LanguageModel
from ..layers.untouched import is_untouched
from .cache import CACHE, SubquadraticCache, one_cache
from .model import SubquadraticModel, real_slots


class Generating(GenerationMixin):
    """Before ``SubquadraticPreTrainedModel`` in the bases of a model with an output map ``lm_head``."""

    lm_head: nn.Module
    vocab_size: int

    @classmethod
    def can_generate(cls) -> bool:
        """Yes; transformers itself looks among the direct bases only."""
        return True

    @property
    def reader(self) -> SubquadraticModel:
        """What reads the tokens that are generated."""
        raise NotImplementedError

    def _one_token(self, tokens: Tensor | None, mask: Tensor | None, cache: Any, use_cache: bool | None, others: Any) -> Tensor | None:
        """Logits (B, 1, V) of one more token by the recorded step of our own ``generate``; None where that may not run, or nothing has
        been read yet: only where nobody listens to the modules that it passes by, or stands in their place, and nothing else is asked for
        (``others``: further arguments)."""
        if (
            type(cache) is not SubquadraticCache
            or tokens is None
            or tokens.shape[1] != 1
            or torch.is_grad_enabled()
            or use_cache is False
            or self.reader.training
            or any(value is not None and value is not False and value is not True for value in others)
            or not is_untouched(self.reader, SubquadraticModel)
        ):
            return None
        layer = cache.layer
        state = layer.reached
        if not layer.is_initialized or len(tokens) != layer.rows or real_slots(mask, len(tokens), 1, layer.seen_tokens) is not None:
            return None
        if layer.steps is None or layer.steps.model is not self._own():
            layer.steps = Steps(self._own())
        logits, reached = layer.steps.read(tokens, state)
        layer.store(reached, 1, rows=len(tokens))
        layer.last = logits
        return logits[:, None]

    def _with_last(self, logits: Tensor, mask: Tensor | None, cache: Any, length: int) -> Tensor:
        """The last logits (B, K, V) of a piece of a stream of ``length`` slots, with those of a row's last real token in the last
        one: of an earlier piece, where this one is all padding."""
        if cache is None:
            return logits
        layer = cache.layer
        if layer.last is not None and mask is not None:
            some = (mask[:, -length:] != 0).any(dim=1)
            logits = torch.cat((logits[:, :-1], torch.where(some[:, None], logits[:, -1], layer.last)[:, None]), dim=1)
        layer.last = logits[:, -1].clone()
        return logits

    def _own(self) -> LanguageModel:
        """A LanguageModel of the very modules of this model, for what is written for one."""
        own = self.__dict__.get("_own_model")
        head: Any = self.lm_head
        table: Any = self.reader.get_input_embeddings()
        if is_untouched(head, nn.Linear) and is_untouched(table, nn.Embedding) and head.weight is table.weight:
            head = None  # the table itself; an adapter on the table alone leaves the output map what it was
        parts = {"embedding": self.reader.embedding, "backbone": self.reader.backbone, "norm": self.reader.norm, "head": head}
        if own is None or any(getattr(own, name) is not part for name, part in parts.items()):
            own = LanguageModel.__new__(LanguageModel)
            nn.Module.__init__(own)
            own.config, own.vocab_size = self.reader.config.backbone_config, self.vocab_size
            own.tie_embeddings = head is None
            for name, part in parts.items():
                setattr(own, name, part)
            own.training = False
            self.__dict__["_own_model"] = own  # beside the modules: it has none of its own
        return own

    def prepare_inputs_for_generation(  # type: ignore[override]  # the cache has another name since 5.24
        self,
        input_ids: Any,
        next_sequence_length: int | None = None,
        attention_mask: Any = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As of transformers, but never a token a second time.

        Raises:
            ValueError: if the cache holds the whole prompt, or more: what it says of the next token was given back with it.
        """
        past_key_values = kwargs.get(CACHE)
        if past_key_values is not None and next_sequence_length is not None and next_sequence_length <= 0:
            held = past_key_values.get_seq_length()
            require(held > 0, "the prompt is empty: give input_ids or inputs_embeds of at least one token, such as bos_token_id")
            raise ValueError(
                f"past_key_values holds {held} tokens, and the prompt has {held + next_sequence_length}: a state cannot read a token "
                "twice, nor forget one. Pass what `generate` returned together, sequences and past_key_values (which lacks the last "
                "token), with new tokens after it; or a copy of the cache (copy.deepcopy) made before the last token was read"
            )
        for name in ("tokenizer", "assistant_tokenizer"):  # `generate` hands what it was given on, to every step
            kwargs.pop(name, None)
        given: dict[str, Any] = {"attention_mask": attention_mask, "inputs_embeds": inputs_embeds, "is_first_iteration": is_first_iteration}
        return super().prepare_inputs_for_generation(  # type: ignore[misc]  # it asks for a PreTrainedModel, which this comes before
            input_ids, next_sequence_length=next_sequence_length, **given, **kwargs
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> Any:
        """A SubquadraticCache, whatever ``cache_implementation`` says: there is one kind.

        Raises:
            ValueError: if prompt and new tokens have more positions than the model.
        """
        given = one_cache(model_kwargs.get(CACHE), None)
        self._check_room(model_kwargs.get("attention_mask"), max_cache_length)
        if given is None and generation_config.use_cache is not False:
            model_kwargs[CACHE] = SubquadraticCache(self.reader.max_length)

    def _check_room(self, mask: Tensor | None, slots: int) -> None:
        limit = self.reader.max_length
        if limit is None:
            return
        padded = 0 if mask is None else mask.shape[1] - int(mask.sum(dim=1).max())
        require(
            slots - padded <= limit,
            f"prompt and new tokens take {slots - padded} positions, but this model has max_position_embeddings={limit}: ask for fewer "
            "new tokens (max_new_tokens), or shorten the prompt",
        )
