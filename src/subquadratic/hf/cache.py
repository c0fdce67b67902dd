"""The cache of transformers over our streaming state.

One layer stands for the whole model: what a model of ours remembers is one object, most of it of constant size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..core.errors import require
from ..core.state import State, state
from ..generation.recorded_steps import Reached, Steps

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls a cache among the arguments and outputs of a model: its name since 5.24, or the one before."""


def one_cache(past_key_values: Any, cache: Any) -> SubquadraticCache | None:
    """The cache that was given, by either name.

    Raises:
        ValueError: for two, or one of another kind.
    """
    require(past_key_values is None or cache is None, "past_key_values and cache are two names of one argument: give either")
    given = past_key_values if cache is None else cache
    require(
        given is None or isinstance(given, SubquadraticCache),
        f"past_key_values must be a SubquadraticCache, which `generate` and forward give back, got {type(given).__name__}",
    )
    return given


@state
class Held(State):
    """What a layer holds of each row."""

    state: Any
    last: Tensor | None


class StateLayer(CacheLayerMixin):
    """What a model has read.

    ``reached`` holds the state; ``seen_tokens`` counts slots, padding included, as transformers does: it is what ``attention_mask`` covers.
    ``last`` (B, V) holds the logits of each row's last real token, for a piece that is all padding in some row; None: nobody kept them.
    """

    is_compileable = False
    is_croppable = False
    supports_early_init = False
    is_sliding = False

    def __init__(self, max_length: int | None = None) -> None:
        super().__init__()
        self.max_length = max_length
        self.reached = Reached(None)
        self.last: Tensor | None = None
        self.seen_tokens = self.rows = 0
        self.steps: Steps | None = None
        """How the model reads single tokens of this stream. Not copied with the cache: it knows the model."""

    @property
    def state(self) -> Any:
        """The :class:`~subquadratic.State`; None: nothing has been read."""
        return self.reached.state

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"steps": None, "reached": Reached(self.state)}

    def store(self, reached: Reached, count: int, *, rows: int) -> None:
        """What is held after ``count`` more slots of ``rows`` rows."""
        self.reached, self.rows = reached, rows
        self.seen_tokens += count
        self.is_initialized = True

    def lazy_initialization(self, *given: Any, **named: Any) -> None:
        """Nothing: the model makes its first state."""

    def update(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Raises TypeError: there are no keys and values to add."""
        raise TypeError("a SubquadraticCache is filled by its model, not layer by layer: it belongs to models of subquadratic.hf")

    def get_seq_length(self) -> int:
        """Slots read so far, padding included."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(slots with the next ``query_length``, 0)."""
        return self.seen_tokens + int(query_length), 0

    def get_max_length(self) -> int:
        """The most positions of the model; -1: no limit."""
        return -1 if self.max_length is None else self.max_length

    def get_max_cache_shape(self) -> int:
        """``get_max_length`` by its older name."""
        return self.get_max_length()

    def reset(self) -> None:
        """Nothing has been read."""
        self.reached, self.last, self.seen_tokens, self.is_initialized = Reached(None), None, 0, False

    def _rows(self, change: Any) -> None:
        if self.state is not None:
            held = change(Held(self.state, self.last))
            self.reached, self.last = Reached(held.state), held.last
            self.rows = len(held.state.seen)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes row ``beam_idx[i]``."""
        self._rows(lambda held: held.reorder(beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times in a row."""
        self._rows(lambda held: held.repeat(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of ``indices``."""
        self._rows(lambda held: held.select(indices))

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: what has been read into a state cannot be taken out again."""
        raise ValueError(
            "the cache of a subquadratic model cannot be cropped: tokens are folded into a state and cannot be taken out again. "
            "Copy the cache (copy.deepcopy) before what may have to be taken back; assisted decoding needs another assistant"
        )

    def offload(self) -> None:
        """Move what is held to the CPU."""
        self._move(torch.device("cpu"))

    def prefetch(self) -> None:
        """Nothing: the model moves what it is given."""

    def _move(self, device: torch.device) -> None:
        if self.state is not None:
            self._rows(lambda held: held.to(device))


class SubquadraticCache(Cache):
    """``past_key_values`` of a model of :mod:`subquadratic.hf`: a :class:`~subquadratic.State`, of constant size for most backbones.

    Args:
        max_length: the most positions of the model; None: no limit.
    """

    def __init__(self, max_length: int | None = None) -> None:
        super().__init__(layers=[StateLayer(max_length)])

    @property
    def layer(self) -> StateLayer:
        """The one layer."""
        layer = self.layers[0]
        assert isinstance(layer, StateLayer)
        return layer

    @property
    def state(self) -> State | None:
        """What the model has read; None: nothing."""
        return self.layer.state

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """``get_max_length`` by its older name."""
        return self.layer.get_max_length()

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The most positions of the model; -1: no limit."""
        return self.layer.get_max_length()

    @property
    def max_cache_len(self) -> int:
        """``get_max_length`` by its oldest name, which PEFT asks for."""
        return self.layer.get_max_length()

    @property
    def is_croppable(self) -> bool:
        """False: see ``crop``."""
        return False

    @property
    def batch_size(self) -> int:
        """Rows; -1: nothing has been read."""
        return -1 if self.state is None else len(self.state.tensors()[0])

    def nbytes(self) -> int:
        """Bytes of the state."""
        return 0 if self.state is None else self.state.nbytes()
