"""What every backbone's configuration has in common, and how a saved one finds its class again. PyTorch is loaded by `build` alone."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..core.choices import NORMS, POSITIONS
from ..core.errors import require, require_above_zero, require_choice, require_positive, require_probability
from ..core.scalars import as_number, as_numbers, is_whole, require_flags

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Fields that every backbone has. Subclasses add theirs, set ``model_type``, and build their backbone in ``build``.

    Raises:
        ValueError: on construction, for any value out of range.
    """

    model_type: ClassVar[str] = ""
    causal_only: ClassVar[bool] = False
    aligned_right: ClassVar[bool] = (
        False  # whether outputs are each row's last real positions, aligned right, instead of standing at their inputs
    )
    fixed_length: ClassVar[bool] = False
    """Whether it has weights for each position, as many as its field ``max_length`` says."""
    state_grows: ClassVar[bool] = False
    """Whether the state of a stream grows with its length."""
    state_bound: ClassVar[str | None] = None
    """The field that bounds it, where it is given."""
    _classes: ClassVar[dict[str, type[BackboneConfig]]] = {}

    dim: int
    """Model width D."""
    depth: int
    """Number of layers."""
    heads: int = 8
    """Attention heads H."""
    head_dim: int | None = None
    """Width K of a head; None: dim / heads."""
    causal: bool = True
    """Whether a position attends only to itself and earlier ones."""
    ff_mult: float = 4.0
    """Inner width of the feed-forward layers over dim."""
    ff_glu: bool = False
    """Gate the feed-forward layers (GEGLU)."""
    ff_chunks: int = 1
    """Run the feed-forward layers over the sequence in this many pieces."""
    dropout: float = 0.0
    """Dropout of the embedding and in the feed-forward layers."""
    attention_dropout: float = 0.0
    """Dropout in the attention layers."""
    positions: str | None = "rotary"
    """"rotary" (in the attention layers), "learned", "fixed", "axial" (added to the embedding by the heads), or None."""
    axial_shape: tuple[int, int] | None = None
    """(rows, columns) of axial positions; None: near-square for the head's max_length."""
    norm: str = "layer"
    """"layer" or "scale" norm before each branch, or "rezero": a gain after it."""
    reversible: bool = False
    """Reversible residual stack: memory does not grow with depth."""
    checkpointing: bool = False
    """Recompute activations in backward."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.model_type:
            BackboneConfig._classes[cls.model_type] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = as_number(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.type in (bool, "bool"):  # a text where annotations are not evaluated
                require_flags(**{field.name: value})
        require_positive(dim=self.dim, depth=self.depth, heads=self.heads, head_dim=self.head_dim, ff_chunks=self.ff_chunks)
        require_probability(dropout=self.dropout, attention_dropout=self.attention_dropout)
        self._check_token_shift()
        require_choice("norm", self.norm, NORMS)
        require_choice("positions", self.positions, POSITIONS)
        require_above_zero(ff_mult=self.ff_mult)
        require(
            not (self.reversible and self.checkpointing),
            "reversible=True already recomputes activations: leave checkpointing=False with it",
        )
        if self.causal_only and not self.causal:
            raise ValueError(f"causal must be True for {self.model_type}: it exists only in causal form, got {self.causal!r}")
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(f"dim must be divisible by heads when head_dim is not given, got dim={self.dim} and heads={self.heads}")
        if self.axial_shape is not None:
            require(self.positions == "axial", f"axial_shape is for positions='axial', got positions={self.positions!r}")
            object.__setattr__(self, "axial_shape", as_numbers(self.axial_shape))  # JSON gives a list
            if not isinstance(self.axial_shape, tuple) or len(self.axial_shape) != 2 or not all(map(is_whole, self.axial_shape)):
                raise ValueError(f"axial_shape must be (rows, columns), two integers, got {self.axial_shape!r}")
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f"head_dim must be even for rotary positions, got {self.head_width}; choose an even head_dim or other positions"
            )

    def _check_token_shift(self) -> None:
        shift = getattr(self, "token_shift", False)
        if not isinstance(shift, int) or shift < 0:
            raise ValueError(f"token_shift must be True, False or a number of tokens, got {shift!r}")

    @property
    def head_width(self) -> int:
        """K."""
        return self.head_dim if self.head_dim is not None else self.dim // self.heads

    @property
    def length_limit(self) -> int | None:
        """Maximum number of positions of the backbone itself; None: no limit."""
        return None

    def build(self) -> nn.Module:
        """A freshly initialised backbone."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to build its backbone")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with ``model_type``.

        Raises:
            ValueError: for a field that has no plain form (a callable kernel).
        """
        values: dict[str, Any] = {"model_type": self.model_type}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if callable(value):
                raise ValueError(f"{field.name}={value!r} is a Python callable and cannot be saved; use a named {field.name}")
            values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneConfig:
        """The configuration that :meth:`to_dict` gave; on the base class, of whatever model it names.

        Raises:
            ValueError: for an unknown model or field, each with the nearest name.
        """
        values = dict(values)
        name = values.pop("model_type", cls.model_type)
        found = config_class(name)
        if not issubclass(found, cls):
            raise ValueError(f"this is the configuration of model_type {name!r}, not {cls.model_type!r}")
        known = [field.name for field in dataclasses.fields(found)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                raise ValueError(
                    f"{found.__name__} has no field {key!r}"
                    + (f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}")
                )
        return found(**values)


def model_types() -> list[str]:
    """Names of all backbones, in alphabetical order."""
    from .configs import __path__ as folder

    for module in pkgutil.iter_modules(folder):
        importlib.import_module(f"{__package__}.configs.{module.name}")
    return sorted(BackboneConfig._classes)


def config_class(model_type: str) -> type[BackboneConfig]:
    """The configuration class of a backbone, by name.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    if model_type not in BackboneConfig._classes:
        require_choice("model_type", model_type, model_types())
    return BackboneConfig._classes[model_type]
