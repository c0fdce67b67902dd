"""A backbone with token embedding, pooling and a class head.

Axes: B batch, N length, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import require, require_choice, require_positive
from ..core.padding import count_on, count_real
from ..core.scalars import plain_scalars
from ..core.state import State, state
from ..layers.streaming import Carry, advance, default_device, part_with
from ..models.config import BackboneConfig
from .cross_entropy import IGNORE
from .embedding import TokenEmbedding, final_norm
from .initial_weights import draw_weights_, start_uniform_
from .saving import Pretrained
from .targets import last_outputs, valid_outputs

POOLINGS = ("mean", "last")


@state
class ClassifierState(State):
    """What a classifier remembers of the tokens before."""

    backbone: State
    pooled: Tensor  # (B, D) float32: the sum of the normed hidden states ("mean"), or the latest one ("last")
    seen: Tensor  # (B,) int64, real tokens so far


class SequenceClassifier(Pretrained):
    """Class logits of a whole sequence, from any backbone.

    Args:
        config: the backbone's configuration.
        vocab_size: V; 256 for bytes.
        num_classes: number of classes; None: that of ``labels``.
        max_length: the most positions a sequence may have; required for learned and axial positions. None: only the backbone's limit.
        pooling: "mean" over the real positions, or the "last" real one. None: "mean", and "last" for a Perceiver AR (whose outputs are its
            last positions only, so that a mean would depend on how the sequence was split).
        labels: the names of the classes, in the order of the logits; saved with the model.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self,
        config: BackboneConfig,
        *,
        vocab_size: int = 256,
        num_classes: int | None = None,
        max_length: int | None = None,
        pooling: str | None = None,
        labels: Sequence[str] | None = None,
    ):
        super().__init__()
        self.labels = _checked(labels, num_classes)
        if num_classes is None:
            require(self.labels is not None, "num_classes must be given, or labels")
            num_classes = len(self.labels or ())
        require_positive(num_classes=num_classes)
        pooling = pooling or ("last" if config.aligned_right else "mean")
        require_choice("pooling", pooling, ("last",) if config.aligned_right else POOLINGS)
        self.config, self.vocab_size, self.num_classes, self.pooling = config, vocab_size, num_classes, pooling
        self.embedding = TokenEmbedding(config, vocab_size=vocab_size, max_length=max_length)
        self.backbone: Any = config.build()
        self.norm = final_norm(config)
        self.head = nn.Linear(config.dim, num_classes)
        draw_weights_(self)
        start_uniform_(self.norm, self.head, self.embedding, vocab_size=num_classes)

    @property
    def max_length(self) -> int | None:
        """Maximum sequence length; None: no limit."""
        return part_with(self.embedding, "max_length").max_length

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, carry: Carry | None = None) -> Tensor:
        """Class logits.

        Args:
            tokens: (B, N) int64 in [0, V).
            mask: (B, N) bool, True = real token.
            carry: the state of a stream, of which ``tokens`` are the next ones: see ``extend``.

        Returns:
            (B, num_classes); zeros for a row with no real token.
        """
        if carry is not None:
            return self._step(tokens, mask, carry)
        x = self.norm(self.backbone(self.embedding(tokens, mask=mask), mask=mask))
        seen = count_real(mask, tokens.shape[0], tokens.shape[1], tokens.device)
        nothing = torch.zeros(x.shape[0], x.shape[2], device=x.device)
        return self._classify(self._pool(x, valid_outputs(mask, x.shape[1], self.config), nothing), seen, x.dtype)

    def loss(self, tokens: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats of ``labels`` (B,) int64; rows of label -100 do not count, and where all are, it is 0."""
        return F.cross_entropy(self(tokens, mask=mask).float(), labels, reduction="sum") / (labels != IGNORE).sum().clamp_min(1)

    def count_predictions(self, tokens: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """How many rows ``loss`` is the mean of: see :meth:`LanguageModel.count_predictions`."""
        return (labels != IGNORE).sum()

    def init_state(self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ClassifierState:
        """The state before the first token.

        Raises:
            NotCausalError: if the backbone is bidirectional.
        """
        before = part_with(self.backbone, "init_state").init_state(batch_size, device=device, dtype=dtype)
        place, _ = default_device(self, device, dtype)
        pooled = torch.zeros(batch_size, self.config.dim, device=place)
        return ClassifierState(before, pooled, torch.zeros(batch_size, dtype=torch.int64, device=place))

    def extend(self, tokens: Tensor, state: ClassifierState, *, mask: Tensor | None = None) -> tuple[Tensor, ClassifierState]:
        """Class logits (B, num_classes) of everything so far, and the state after; equal to ``forward`` over all pieces at once."""
        return self._carried(tokens, state=state, mask=mask)

    def _step(self, tokens: Tensor, mask: Tensor | None, carry: Carry) -> Tensor:
        state = carry.before
        x, backbone = advance(self.backbone, self.embedding(tokens, mask=mask, seen=state.seen), state=state.backbone, mask=mask)
        x = self.norm(x)
        pooled = self._pool(x, valid_outputs(mask, x.shape[1], self.config), state.pooled)
        seen = count_on(state.seen, mask, tokens.shape[1])
        carry.after = ClassifierState(backbone, pooled, seen)
        return self._classify(pooled, seen, x.dtype)

    def options(self) -> dict[str, Any]:
        """What the model was built with, as plain values."""
        return {
            "config": self.config.to_dict(),
            "vocab_size": self.vocab_size,
            "num_classes": self.num_classes,
            "max_length": self.max_length,
            "pooling": self.pooling,
            **({} if self.labels is None else {"labels": list(self.labels)}),
        }

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """A model from what ``options`` gave."""
        options = dict(options)
        return cls(BackboneConfig.from_dict(options.pop("config")), **options)

    def _pool(self, x: Tensor, valid: Tensor | None, before: Tensor) -> Tensor:
        """What is remembered of (B, N, D) hidden states after those ``before``."""
        exact = torch.promote_types(x.dtype, torch.float32)
        if self.pooling == "mean":
            return before + (x if valid is None else x.masked_fill(~valid[..., None], 0.0)).to(exact).sum(dim=1)
        last, some = last_outputs(x, valid)
        return last[:, 0].to(exact) if some is None else torch.where(some, last[:, 0].to(exact), before)

    def _classify(self, pooled: Tensor, seen: Tensor, dtype: torch.dtype) -> Tensor:
        if self.pooling == "mean":
            pooled = pooled / seen.clamp_min(1)[:, None]
        return self.head(pooled.to(dtype)).masked_fill(seen[:, None] == 0, 0.0)


def _checked(labels: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...] | None:
    """Names of classes.

    Raises:
        ValueError: they are no names, not one for each class, or one of them names two.
    """
    if labels is None:
        return None
    names = isinstance(labels, Sequence) and not isinstance(labels, str) and all(isinstance(label, str) for label in labels)
    require(names, f"labels must be a list of names, got {labels!r:.80}")
    require(len(set(labels)) == len(labels), f"labels must be different from each other, got {list(labels)!r:.80}")
    require(
        num_classes is None or len(labels) == num_classes,
        f"labels must name each of the {num_classes} classes of num_classes, got {len(labels)}: {list(labels)!r:.80}",
    )
    return tuple(labels)
