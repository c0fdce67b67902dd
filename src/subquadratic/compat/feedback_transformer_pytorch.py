"""The published package ``feedback-transformer-pytorch`` (0.0.11): the same names, keywords and numbers.

Kept because trained weights depend on it: memories go through the key-value map without a norm, while a segment's own keys are made of
normed hidden states; the relative bias counts a query's distance from the first *key*, memories included, as if queries began there too; a
segment of one token never attends to itself, so with ``seq_len`` above 1 the result depends on where calls cut the sequence (each call
begins a segment). Mended: one token with no memory yet runs at any ``seq_len`` (it attends to nothing), the model can be pickled, and there
are no layer weights where ``keep_last_hidden`` leaves them unused.

Parameters have names of their own; a published state dict loads as it is.

Axes: B batch, N length, S memories, D width, H heads, K head width, V vocabulary.
"""

import re
from collections import namedtuple
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.feedback import FeedbackMemory, RelativeBias
from ..models.config import BackboneConfig
from ..models.feedback_stack import FeedbackLayer, FeedbackStack, Step
from ..ops.errors import require, require_positive
from ..ops.feedback import HIDDEN, MemoryLine
from ..ops.scalars import plain_scalars

__all__ = ["FeedbackTransformer", "Memory"]

Memory = namedtuple("Memory", ["keys", "values"])  # each (B, S, H K)

LAYER_NAMES = {  # published -> ours, after "layers.<index>."
    r"0\.(?:fn\.)+norm\.(\w+)": r"norm.\1",
    r"0\.(?:fn\.)+to_q\.weight": r"attention.query.weight",
    r"0\.(?:fn\.)+to_out\.(\w+)": r"attention.output.\1",
    r"1\.fn\.norm\.(\w+)": r"feed_forward.norm.\1",
    r"1\.fn\.fn\.net\.0\.(\w+)": r"feed_forward.layer.expand.\1",
    r"1\.fn\.fn\.net\.3\.(\w+)": r"feed_forward.layer.contract.\1",
}
SHARED_MAP = re.compile(r"shared_kv_proj\.weight|layers\.\d+\.0\.(?:fn\.)+to_kv\.weight")


class FeedbackTransformer(nn.Module):
    """A Feedback Transformer from tokens to logits, causal.

    Args:
        num_tokens: V.
        dim: D.
        depth: layers.
        mem_len: how many memories are kept.
        seq_len: tokens computed in parallel.
        heads: H.
        dim_head: K.
        attn_dropout: of the attention weights.
        ff_dropout: in the feed-forward layers.
        keep_last_hidden: the memory is the last layer's output instead of the learned mixture.

    Raises:
        ValueError: for sizes or probabilities out of range.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        depth: int,
        mem_len: int,
        seq_len: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        keep_last_hidden: bool = False,
    ):
        super().__init__()
        require_positive(num_tokens=num_tokens, mem_len=mem_len, seq_len=seq_len)
        config = BackboneConfig(
            dim=dim, depth=depth, heads=heads, head_dim=dim_head, ff_glu=True, dropout=ff_dropout, attention_dropout=attn_dropout,
            positions=None,
        )  # fmt: skip
        self.seq_len, self.mem_len = seq_len, mem_len
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = RelativeBias(heads, buckets=32, max_distance=128)
        self.stack = FeedbackStack(
            (FeedbackLayer(config) for _ in range(depth)),
            FeedbackMemory(dim, depth=depth, heads=heads, head_dim=dim_head, keep_last_hidden=keep_last_hidden),
        )
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_tokens))
        nn.init.normal_(self.pos_emb.table)
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, x: Tensor, memory: Memory | None = None, return_memory: bool = False) -> Tensor | tuple[Tensor, Memory]:
        """Tokens (B, N), N from 0 -> logits (B, N, V).

        Args:
            x: tokens.
            memory: of an earlier call, or any pair (keys, values) of (B, S, H K). Gradients flow into it.
            return_memory: also give the last ``mem_len`` memories.

        Raises:
            ValueError: for wrong shapes.
        """
        require(x.dim() == 2, f"x must be tokens (batch, length), got {tuple(x.shape)}")
        given = self._given(memory, x.shape[0])
        lead = 0 if given is None else given.shape[1]
        x = self.token_emb(x)
        line, token = self._line(x, lead)
        if given is not None:
            token = line.write(given, 0, token)
        weights = self.stack.memory.weights()
        outputs, place, begin = [], lead, 0
        for piece in x.split(self.seq_len, dim=1):
            window = line.read(begin, place, token) if place > begin else []
            inside = piece.shape[1] > 1
            step = Step(window, self._bias(piece.shape[1], place - begin, inside), (), inside=inside)
            hidden, _ = self.stack(piece, step)
            outputs.append(hidden[-1])
            token = line.write(self.stack.memory(hidden, weights), place, token)
            place += piece.shape[1]
            begin = max(place - self.mem_len, 0)
        logits = self.to_logits(torch.cat(outputs, dim=1))
        if not return_memory:
            return logits
        ((keys, values),) = line.read(begin, place, token)
        return logits, Memory(*(part.transpose(1, 2).flatten(2) for part in (keys, values)))

    def _given(self, memory: Memory | None, batch: int) -> Tensor | None:
        """Keys and values (B, S, 1, 2, H, K)."""
        if memory is None:
            return None
        keys, values = memory
        _, _, heads, width = self.stack.memory.shape
        require(
            keys.shape == values.shape and keys.dim() == 3 and keys.shape[0] == batch and keys.shape[2] == heads * width,
            f"memory must be keys and values of (batch, memories, {heads * width}) with batch {batch}, "
            f"got {tuple(keys.shape)} and {tuple(values.shape)}",
        )
        return torch.stack((keys, values), dim=2).unflatten(-1, (heads, width))[:, :, None]

    def _line(self, x: Tensor, lead: int) -> tuple[MemoryLine, Tensor]:
        weight, kind = self.stack.memory.key_value.weight, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        _, _, heads, width = self.stack.memory.shape
        line = MemoryLine(x.shape[0], lead + x.shape[1], groups=1, heads=heads, width=width, device=x.device, dtype=dtype)
        return line, line.start()

    def _bias(self, length: int, memories: int, inside: bool) -> Tensor:
        """(H, length, keys), with the published distances: as if the first query stood at the first key."""
        queries = torch.arange(length, device=self.pos_emb.table.device)[:, None]
        keys = torch.arange(memories + (length if inside else 0), device=queries.device)
        bias = self.pos_emb(queries - keys)
        return bias.masked_fill(keys > queries + memories, HIDDEN) if inside else bias


def _rename(module: FeedbackTransformer, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Published names to ours. The shared map is there once a layer and once more: all copies must agree."""
    *_, errors = rest
    ours = f"{prefix}stack.memory.key_value.weight"
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if SHARED_MAP.fullmatch(name):
            copy = state_dict.pop(key)
            if copy.shape != state_dict.setdefault(ours, copy).shape or not torch.equal(copy, state_dict[ours]):
                errors.append(f"{key} differs from another copy of the key-value map, but this model has one for all layers")
        elif name == "layer_weight":
            weight = state_dict.pop(key)
            if module.stack.memory.layer_weight is not None:
                state_dict[f"{prefix}stack.memory.layer_weight"] = weight
        elif name == "pos_emb.relative_attention_bias.weight":
            state_dict[f"{prefix}pos_emb.table"] = state_dict.pop(key)
        elif name.startswith("layers."):
            _rename_layer(state_dict, prefix, name)


def _rename_layer(state_dict: dict[str, Any], prefix: str, name: str) -> None:
    _, index, rest = name.split(".", 2)
    for pattern, replacement in LAYER_NAMES.items():
        found = re.fullmatch(pattern, rest)
        if found is None:
            continue
        value = state_dict.pop(prefix + name)
        if ".expand." in replacement:
            value = torch.cat(value.chunk(2)[::-1])  # the published gate is the second half, ours the first
        state_dict[f"{prefix}stack.layers.{index}.{found.expand(replacement)}"] = value
        return
