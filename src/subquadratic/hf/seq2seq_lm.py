"""Sequence to sequence: an encoder, and a decoder that reads it by cross-attention.

Axes: B batch, S length of the source, N length of the target, D width, V vocabulary of the target.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from ..core.errors import require
from ..heads.initial_weights import start_uniform_
from .cache import CACHE, SubquadraticCache, one_cache
from .configuration import SubquadraticConfig
from .generating import Generating
from .model import SubquadraticModel
from .pretrained import SubquadraticPreTrainedModel, refuse


class SubquadraticForSeq2SeqLM(Generating, SubquadraticPreTrainedModel):
    """An encoder and a causal decoder with cross-attention, as :class:`~subquadratic.EncoderDecoder`.

    Args:
        config: with ``encoder_backbone``, and a ``backbone`` that has ``cross_attention=True``.

    Raises:
        ValueError: if the two do not fit together.
    """

    saved_class = "EncoderDecoder"
    renamed = {
        r"^decoder\.head\.": "lm_head.",
        r"^embedding\.": "source.embedding.",
        r"^encoder\.": "source.backbone.",
        r"^norm\.": "source.norm.",
    }
    _tied_weights_keys = {"lm_head.weight": "decoder.embedding.table.weight"}

    def __init__(self, config: SubquadraticConfig):
        encoder, decoder = config.encoder_config, config.backbone_config
        require(not encoder.aligned_right, f"encoder_backbone must give every position; {encoder.model_type} gives its last ones only")
        require(decoder.causal and config.crosses, "backbone must be causal with cross_attention=True, to decode what the encoder read")
        width = getattr(decoder, "context_dim", None) or decoder.dim
        require(width == encoder.dim, f"backbone must read the encoder's width: set context_dim={encoder.dim}, got {width}")
        super().__init__(config)
        self.source = SubquadraticModel(config.of_encoder(), maskable=False)
        self.decoder = SubquadraticModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if not config.tie_word_embeddings:
            start_uniform_(self.decoder.norm, self.lm_head, self.decoder.embedding, vocab_size=config.vocab_size)
        self.post_init()

    @property
    def reader(self) -> SubquadraticModel:
        """The decoder."""
        return self.decoder

    def get_encoder(self, *unused: Any, **named: Any) -> nn.Module:
        """(B, S) tokens -> (B, S, D), once per source."""
        return self.source

    def get_decoder(self) -> nn.Module:
        """What reads the target."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The source's token table."""
        return self.source.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table in the place of the source's."""
        self.source.set_input_embeddings(value)

    def resize_token_embeddings(self, *given: Any, **named: Any) -> nn.Embedding:
        """Raises NotImplementedError: source and target have vocabularies of their own."""
        raise NotImplementedError("source and target have vocabularies of their own: build the model with the sizes that you need")

    def get_output_embeddings(self) -> nn.Module:
        """The output map."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output map in its place."""
        self.lm_head = new_embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels (B, N) moved right by one, behind ``decoder_start_token_id``.

        Raises:
            ValueError: without that token.
        """
        start = self.config.decoder_start_token_id
        start = self.config.bos_token_id if start is None else start
        if start is None:
            raise ValueError("decoder_start_token_id is required in the configuration, to make decoder_input_ids of labels")
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = start
        return shifted.masked_fill(shifted == -100, 0)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        cache: SubquadraticCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Any = None,
        **unused: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the target.

        Args:
            input_ids, attention_mask, inputs_embeds: the source, (B, S).
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds: the target (B, N); without it, made of ``labels``.
            encoder_outputs: of ``get_encoder()``, in place of the source.
            past_key_values, cache, use_cache, logits_to_keep: as :meth:`SubquadraticForCausalLM.forward`. A cache also holds what
                was read of the source.
            labels: (B, N), what each target position has to say; not shifted. -100: not counted.
            num_items_in_batch: what the summed loss is divided by; None: the labels counted.
            unused: see :meth:`SubquadraticModel.forward`.

        Returns:
            ``logits`` (B, N, V), ``loss``, ``past_key_values`` and ``encoder_last_hidden_state`` (B, S, D).
        """
        unused.pop("decoder_position_ids", None)  # they follow from the mask
        refuse(unused)
        if decoder_input_ids is None and decoder_inputs_embeds is None and labels is not None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        past_key_values = one_cache(past_key_values, cache)
        require(
            decoder_input_ids is not None or decoder_inputs_embeds is not None,
            "decoder_input_ids is required without labels, which the Trainer takes away to smooth them: "
            "give it DataCollatorForSeq2Seq(tokenizer, model=model)",
        )
        last = self._one_token(decoder_input_ids, decoder_attention_mask, past_key_values, use_cache, (decoder_inputs_embeds, labels))
        if last is not None:
            return Seq2SeqLMOutput(logits=last, **{CACHE: past_key_values})
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if encoder_outputs is None and not seen:
            encoder_outputs = self.source(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, use_cache=False)
        if isinstance(encoder_outputs, tuple | list):
            encoder_outputs = BaseModelOutput(last_hidden_state=encoder_outputs[0])
        context = None if encoder_outputs is None else encoder_outputs.last_hidden_state
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            encoder_hidden_states=context,
            encoder_attention_mask=None if context is None else attention_mask,
            outputs_to_keep=logits_to_keep if isinstance(logits_to_keep, int) else 0,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state
        logits = self.lm_head(hidden[:, kept])
        if isinstance(logits_to_keep, int):
            logits = self._with_last(logits, decoder_attention_mask, outputs.get(CACHE), hidden.shape[1])
        loss = None
        if labels is not None:  # the loss of every position's own label is the masked language model's
            loss = ForMaskedLMLoss(logits=logits, labels=labels, vocab_size=self.vocab_size, num_items_in_batch=num_items_in_batch)
        return Seq2SeqLMOutput(loss=loss, logits=logits, **{CACHE: outputs.get(CACHE)}, encoder_last_hidden_state=context)
