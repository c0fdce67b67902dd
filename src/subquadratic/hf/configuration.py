"""What `config.json` says of one of our models, as a configuration of transformers.

The file is the one that ``LanguageModel.save_pretrained`` writes: its keys are kept, and those of transformers stand beside them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ..heads.files import FORMAT
from ..models.config import BackboneConfig, config_class
from . import adapters

DEFAULT = {"model_type": "performer", "dim": 256, "depth": 4, "heads": 8}
OURS = {"config": "backbone", "decoder_config": "backbone", "encoder_config": "encoder_backbone"}  # keys of the file, and fields here
OURS |= {"max_length": "max_position_embeddings", "target_max_length": "max_position_embeddings", "tie_embeddings": "tie_word_embeddings"}
DERIVED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "head_dim", "num_labels")


class SubquadraticConfig(PreTrainedConfig):
    """Configuration of every model of :mod:`subquadratic.hf`.

    Args:
        backbone: a configuration of :mod:`subquadratic.models`, or what its ``to_dict`` gives: ``{"model_type": "performer", "dim": 256,
            "depth": 4, "heads": 8, ...}``. Of an encoder-decoder, the decoder's, with ``cross_attention=True``.
        encoder_backbone: of an encoder-decoder, the encoder's.
        vocab_size: V; 256 for bytes.
        source_vocab_size: of an encoder-decoder's source; None: ``vocab_size``.
        max_position_embeddings: the most positions of a sequence; required for learned and axial positions. None: the backbone's limit;
            where that has none, there is no such attribute, and ``position_limit`` is None.
        source_max_position_embeddings: the same for an encoder-decoder's source.
        tie_word_embeddings: the output map is the token table.
        mask_token_id: the token in ``input_ids`` that a bidirectional model takes as hidden; None: ``vocab_size``, which is no token of a
            text.
        pooling: of a sequence classifier: "mean" or "last"; None: "mean", and "last" for a Perceiver AR.
        use_cache: ``forward`` gives ``past_key_values`` back in eval mode.

    ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``, ``intermediate_size`` and ``head_dim`` are read from ``backbone``.

    Raises:
        ValueError: for an unknown backbone or field of one, each with the nearest name; for values out of range.
    """

    model_type = "subquadratic"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    backbone: dict[str, Any] | BackboneConfig | None = None
    encoder_backbone: dict[str, Any] | BackboneConfig | None = None
    vocab_size: int = 256
    source_vocab_size: int | None = None
    max_position_embeddings: int | None = dataclasses.field(default_factory=lambda: None)  # no attribute of the class: see `position_limit`
    source_max_position_embeddings: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    mask_token_id: int | None = None
    pooling: str | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.saved_class: str | None = kwargs.pop("class", kwargs.pop("saved_class", None))
        self._take_our_keys(kwargs)
        self.backbone = _plain(DEFAULT if self.backbone is None else self.backbone, "backbone")
        if self.encoder_backbone is not None:
            self.encoder_backbone = _plain(self.encoder_backbone, "encoder_backbone")
        self.is_encoder_decoder = self.encoder_backbone is not None
        limit = self.backbone_config.length_limit
        if self.max_position_embeddings is None:
            self.max_position_embeddings = limit
        if self.max_position_embeddings is None:
            del self.max_position_embeddings
        _same_as_backbone(self, {name: kwargs.pop(name) for name in DERIVED[:-1] if name in kwargs})
        super().__post_init__(**kwargs)

    def _take_our_keys(self, kwargs: dict[str, Any]) -> None:
        """The keys of a file that ``save_pretrained`` of our own heads wrote."""
        if kwargs.pop("format", FORMAT) != FORMAT:
            raise ValueError(f"config.json has another format than {FORMAT}, the one that this version reads")
        if "quantize" in kwargs:
            raise ValueError(
                f"this model was saved with weights in 8 bits (quantize={kwargs['quantize']!r}), which subquadratic.load opens and "
                "transformers does not: open or convert the model that it was made of"
            )
        if "encoder_config" in kwargs:  # its vocab_size and max_length are the source's
            self.source_vocab_size, self.source_max_position_embeddings = self.vocab_size, kwargs.pop("max_length", None)
            self.vocab_size = kwargs.pop("target_vocab_size", None) or self.vocab_size
        if kwargs.get("labels") is not None and self.id2label is None:
            self.id2label = dict(enumerate(kwargs["labels"]))
            self.label2id = {name: number for number, name in self.id2label.items()}
        elif kwargs.get("num_classes") is not None and self.id2label is None:
            kwargs.setdefault("num_labels", kwargs["num_classes"])
        for name in ("labels", "num_classes"):
            kwargs.pop(name, None)
        for name, field in OURS.items():
            if name in kwargs:
                value = kwargs.pop(name)
                setattr(self, field, getattr(self, field) if value is None else value)

    @property
    def position_limit(self) -> int | None:
        """The most positions of a sequence; None: no limit, and no ``max_position_embeddings``, which its readers take for a number."""
        return getattr(self, "max_position_embeddings", None)

    @property
    def backbone_config(self) -> BackboneConfig:
        """The backbone's own configuration; of an encoder-decoder, the decoder's."""
        return BackboneConfig.from_dict(self.backbone)  # type: ignore[arg-type]

    @property
    def causal(self) -> bool:
        """Whether the backbone is; of an encoder-decoder, the decoder."""
        return self._fields["causal"]

    @property
    def crosses(self) -> bool:
        """Whether the backbone reads a context by cross-attention."""
        return bool(self._fields.get("cross_attention"))

    @property
    def latents(self) -> int | None:
        """W of a Perceiver AR, whose outputs are those of its last positions; None: the backbone gives every position's."""
        return self._fields["latents"] if config_class(self._fields["model_type"]).aligned_right else None

    @property
    def _fields(self) -> dict[str, Any]:
        assert isinstance(self.backbone, dict)
        return self.backbone

    def of_encoder(self) -> SubquadraticConfig:
        """The configuration of an encoder-decoder's encoder by itself."""
        return SubquadraticConfig(
            backbone=self.encoder_backbone,
            vocab_size=self.source_vocab_size or self.vocab_size,
            max_position_embeddings=self.source_max_position_embeddings,
            use_cache=False,
            dtype=self.dtype,
        )

    @property
    def encoder_config(self) -> BackboneConfig:
        """The encoder's own configuration.

        Raises:
            ValueError: if there is none.
        """
        if self.encoder_backbone is None:
            raise ValueError("encoder_backbone is required for a sequence-to-sequence model: the configuration of its encoder")
        return BackboneConfig.from_dict(self.encoder_backbone)  # type: ignore[arg-type]

    @property
    def hidden_size(self) -> int:
        """D."""
        return self._fields["dim"]

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone; a Perceiver AR's ``depth``, without its cross layers."""
        return self._fields["depth"]

    @property
    def num_attention_heads(self) -> int:
        """H."""
        return self._fields["heads"]

    @property
    def head_dim(self) -> int:
        """K."""
        return self.backbone_config.head_width

    @property
    def intermediate_size(self) -> int:
        """Inner width of the feed-forward layers."""
        return int(self._fields["dim"] * self._fields["ff_mult"])

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> SubquadraticConfig:
        """This: source and target are both text."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Also ``hidden_size`` and its like, which PEFT and others read here, and the keys that :func:`subquadratic.load` reads."""
        adapters.register()  # PEFT asks for this dict before it looks for targets: the one moment at which it is surely there
        values = super().to_dict()
        values |= {name: getattr(self, name) for name in DERIVED[:-1]}
        name = values.pop("saved_class", None)
        return values if name is None else values | {"format": FORMAT, "class": name} | self._our_options(name)

    def _our_options(self, name: str) -> dict[str, Any]:
        """What the constructor of one of our heads takes."""
        limit = self.position_limit
        if name == "EncoderDecoder":
            return {
                "encoder_config": self.encoder_backbone,
                "decoder_config": self.backbone,
                "vocab_size": self.source_vocab_size or self.vocab_size,
                "target_vocab_size": self.vocab_size,
                "max_length": self.source_max_position_embeddings,
                "target_max_length": limit,
                "tie_embeddings": self.tie_word_embeddings,
            }
        options: dict[str, Any] = {"config": self.backbone, "vocab_size": self.vocab_size, "max_length": limit}
        if name == "SequenceClassifier":
            labels = [str(name) for _, name in sorted(self.id2label.items())] if self.id2label else None
            return options | {"num_classes": self.num_labels, "pooling": self.pooling, "labels": labels}
        return options | {"tie_embeddings": self.tie_word_embeddings}

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: a saved model names this installed class by itself. What transformers does here makes the next save copy this file
        into the model's folder, which then does not load."""


def _plain(backbone: dict[str, Any] | BackboneConfig, name: str) -> dict[str, Any]:
    """A backbone's configuration as a dict, with every field checked."""
    if isinstance(backbone, BackboneConfig):
        return backbone.to_dict()
    if not isinstance(backbone, dict) or "model_type" not in backbone:
        raise ValueError(
            f"{name} must be a configuration of subquadratic.models, or a dict with model_type, dim, depth ..., got {backbone!r:.80}"
        )
    return BackboneConfig.from_dict(backbone).to_dict()


def _same_as_backbone(config: SubquadraticConfig, given: dict[str, Any]) -> None:
    for name, value in given.items():
        held = getattr(config, name)
        if value != held:
            raise ValueError(f"{name}={value!r} contradicts the backbone, which says {held!r}: set it in backbone={{...}}")
