"""What models have in common that map hidden states to logits over the vocabulary."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..heads.initial_weights import start_uniform_
from .configuration import SubquadraticConfig
from .model import SubquadraticModel
from .pretrained import SubquadraticPreTrainedModel, require_causal


class WithOutputMap(SubquadraticPreTrainedModel):
    """A backbone ``model`` of one direction and its output map ``lm_head``, which may be the token table.

    Raises:
        ValueError: for a backbone of the other direction.
    """

    saved_class = "LanguageModel"
    _tied_weights_keys = {"lm_head.weight": "model.embedding.table.weight"}
    causal: ClassVar[bool]
    """The direction of the backbone."""
    instead: ClassVar[str]
    """The class of transformers for the other."""

    def __init__(self, config: SubquadraticConfig):
        require_causal(config, self.causal, type(self).__name__, self.instead)
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
        self.lm_head = new_embeddings
