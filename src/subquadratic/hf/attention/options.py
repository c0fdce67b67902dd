"""The options of our attention in a model of transformers. They stand in the model's configuration, so they are saved and loaded with it.

Axes: B batch, N length, K head width, M features, R slots, W window.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from ...core.choices import check_estimator
from ...core.errors import require_choice, require_positive
from .callers import refuse_by_model

PREFIX = "subquadratic_"
FAVOR, LINFORMER, WINDOW = (PREFIX + name for name in ("favor", "linformer", "window"))
NAMES = (FAVOR, LINFORMER, WINDOW)
ENTRY = "subquadratic_attention"  # of a configuration


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """What our implementations can be told; each reads what concerns it.

    Attributes:
        features: M of FAVOR+. More follow sharp attention more closely, at a cost linear in M.
        seed: draws the projections, one for each layer that has a ``layer_idx`` and head width; the same seed gives the same outputs.
        estimator, center, balance: how FAVOR+ follows softmax where it is bidirectional within one sequence, from the statistics of that
            sequence (:func:`~subquadratic.attention.favor.sharp.favor_attention`). Elsewhere, where they would depend on what a query may
            not see, features are "positive", neither centred nor balanced.
        orthogonal_scaling: row norms of a projection: 0 as Gaussian vectors have (unbiased), 1: sqrt(K).
        slots: R of Linformer, means of as many runs of a row's tokens. From N slots on, attention is exact.
        window: W of window attention: a causal query sees the last W tokens, its own among them; a bidirectional one W - 1 to each side.

    Raises:
        ValueError: for values out of range.
    """

    features: int = 256
    seed: int = 0
    estimator: str = "dense"
    center: bool = True
    balance: str | None = "full"
    orthogonal_scaling: int = 0
    slots: int = 256
    window: int = 256

    def __post_init__(self) -> None:
        require_positive(features=self.features, slots=self.slots, window=self.window)
        check_estimator(estimator=self.estimator, center=self.center, balance=self.balance)
        require_choice("orthogonal_scaling", self.orthogonal_scaling, (0, 1))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {self.seed!r}")


DEFAULTS = AttentionOptions()
KNOWN = [field.name for field in fields(AttentionOptions)]


def configure(model: nn.Module, **options: Any) -> AttentionOptions:
    """Set options of our attention in a model, now and for everybody who loads what it saves.

    Args:
        model: a model of transformers. Options are written into its configuration and those of all its parts.
        options: fields of :class:`AttentionOptions`; the others stay as they are.

    Returns:
        All options, as the model has them now.

    Raises:
        ValueError: for an unknown option or a value out of range.
        TypeError: if the model has no configuration.
        NotImplementedError: if the model's architecture never calls transformers' attention interface.
    """
    for name in options:
        require_choice("an option of configure", name, KNOWN)
    configs = list(_configs(model)) if isinstance(model, nn.Module) else []
    if not configs:
        raise TypeError(f"model must be a model of transformers, with a config, got {type(model).__name__}")
    refuse_by_model(model)
    new = AttentionOptions(**{**asdict(_of_config(configs[0])), **options})
    for config in configs:
        setattr(config, ENTRY, asdict(new))
    return new


def options_of(module: nn.Module) -> AttentionOptions:
    """The options of an attention module: its configuration's, or the defaults."""
    config = getattr(module, "config", None)
    return DEFAULTS if config is None else _of_config(config)


def _of_config(config: Any) -> AttentionOptions:
    written = getattr(config, ENTRY, None)
    if written is None:
        return DEFAULTS
    if not isinstance(written, dict) or any(name not in KNOWN for name in written):
        raise ValueError(f"{ENTRY} of a configuration must be a dict with some of {', '.join(KNOWN)}, got {written!r}")
    return AttentionOptions(**written)


def _configs(model: nn.Module) -> Iterator[Any]:
    """Every configuration in a model once, the model's own first: of its modules, and those that stand within configurations."""
    seen: set[int] = set()
    waiting = [module.config for module in model.modules() if hasattr(getattr(module, "config", None), "to_dict")]
    while waiting:
        config = waiting.pop(0)
        if id(config) not in seen:
            seen.add(id(config))
            yield config
            waiting += [part for key in getattr(config, "sub_configs", {}) if (part := getattr(config, key, None)) is not None]
