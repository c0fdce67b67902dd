"""What transformers calls: our attention as functions of its attention interface.

Axes: B batch, H heads of queries, J heads of keys, N length (queries), S length (keys), K head width.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import require
from .calls import note
from .favor import favor
from .incoming import sight_of
from .linformer import linformer
from .options import FAVOR, LINFORMER, WINDOW, AttentionOptions, options_of
from .refusals import check_keywords
from .sight import Sight
from .window import window, windowed

Attend = Callable[[nn.Module, AttentionOptions, Tensor, Tensor, Tensor, Sight], Tensor]


def attention_function(name: str, attend: Attend) -> Callable[..., tuple[Tensor, None]]:
    """``attend`` with the signature of transformers' attention functions."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        note(module, name)
        check_keywords(name, module, keywords)
        require(
            query.shape[1] % key.shape[1] == 0 and key.shape[:3] == value.shape[:3],
            f"{name} takes queries (B, H, N, K) and keys, values (B, J, S, .) with H a multiple of J, "
            f"got {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}",
        )
        batch = max(query.shape[0], key.shape[0])
        query, key, value = (tensor if len(tensor) == batch else tensor.expand(batch, -1, -1, -1) for tensor in (query, key, value))
        sight = sight_of(name, module, query, key, attention_mask, is_causal, keywords)
        if scaling is not None and scaling != query.shape[-1] ** -0.5:
            query = query * (scaling * query.shape[-1] ** 0.5)
        if dropout > 0.0:  # of keys, the same ones for all queries: what attention dropout is without a matrix of weights
            value = value * F.dropout(value.new_ones(*value.shape[:3], 1), dropout)
        if sight.window is not None and attend is not window:
            output = windowed(module, query, key, value, sight, sight.window, name)
        else:
            output = attend(module, options_of(module), query, key, value, sight)
        return output.transpose(1, 2).contiguous(), None

    attention.__name__ = name
    return attention


FUNCTIONS = {
    FAVOR: attention_function(FAVOR, favor),
    LINFORMER: attention_function(LINFORMER, linformer),
    WINDOW: attention_function(WINDOW, window),
}
