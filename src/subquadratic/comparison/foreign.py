"""Models that are none of this package, made to be trained and measured as ours are: any module from tokens to logits."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..heads.cross_entropy import IGNORE
from ..heads.files import CONFIG, FORMAT, WEIGHTS, read_config, replace_files
from ..heads.saving import read_weights, write_tensors


class ForeignConfig:
    """What evaluation and training ask of a configuration."""

    model_type = "foreign"
    causal, aligned_right, fixed_length, cross_attention = True, False, False, False
    positions: str | None = None


class ForeignModel(nn.Module):
    """A causal language model around a module of somebody else.

    Args:
        spec: what `build` makes the module from.
        vocab_size: V.
        length: tokens in a window, for modules that ask.

    Raises:
        ValueError: the module cannot be made of `spec`.
    """

    def __init__(self, spec: dict[str, Any], *, vocab_size: int, length: int) -> None:
        super().__init__()
        self.spec, self.vocab_size, self.length = dict(spec), vocab_size, length
        self.config = ForeignConfig()
        self.max_length: int | None = None
        self.net = build(spec, vocab_size=vocab_size, length=length)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Logits (B, N, V) of tokens (B, N); of the last alone, (B, 1, V), with `last_only`.

        Raises:
            ValueError: padding, or logits of another shape.
        """
        if mask is not None and not bool(mask.all()):
            raise ValueError("mask: a model of another package is given no padding")
        logits = self.net(tokens)
        logits = getattr(logits, "logits", logits)
        wanted = (*tokens.shape, self.vocab_size)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model: {name_of(self.spec)} gives {found} for tokens {tuple(tokens.shape)}, and logits {wanted} are needed")
        return logits[:, -1:] if last_only else logits

    def loss(self, tokens: Tensor, mask: Tensor | None = None, *, scored: Tensor | None = None, **_: Any) -> Tensor:
        """Mean cross-entropy in nats per predicted token."""
        logits, targets = self._predictions(tokens, mask, scored)
        total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
        return total / (targets != IGNORE).sum().clamp_min(1)

    def count_predictions(self, tokens: Tensor, mask: Tensor | None = None, *, scored: Tensor | None = None, **_: Any) -> Tensor:
        return torch.tensor(tokens[:, 1:].numel(), device=tokens.device) if scored is None else scored[:, 1:].sum()

    @torch.no_grad()
    def token_losses(
        self, tokens: Tensor, mask: Tensor | None = None, *, scored: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As those of `LanguageModel`: nats, whether the likeliest was right, and the tokens predicted, (T,) each."""
        logits, targets = self._predictions(tokens, mask, scored)
        counted = targets != IGNORE
        logits, targets = logits[counted].float(), targets[counted]
        return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets, targets

    def _predictions(self, tokens: Tensor, mask: Tensor | None, scored: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = self(tokens[:, :-1], mask=None if mask is None else mask[:, :-1])
        targets = tokens[:, 1:] if scored is None else tokens[:, 1:].masked_fill(~scored[:, 1:], IGNORE)
        return logits.flatten(0, 1), targets.flatten()

    def options(self) -> dict[str, Any]:
        return {"spec": self.spec, "vocab_size": self.vocab_size, "length": self.length}

    def save_pretrained(self, path: str | Path) -> None:
        """config.json, which says where the module came from, and its weights."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "class": type(self).__name__, **self.options()}
        seen: set[int] = set()
        tensors = {}
        for name, tensor in self.state_dict(keep_vars=True).items():  # tied ones once
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[name] = tensor.detach().clone().contiguous()
        replace_files(
            {
                folder / CONFIG: lambda file: file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"),
                folder / WEIGHTS: lambda file: write_tensors(tensors, file),
            }
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The model that was saved in a folder; its module is made anew, and takes the weights."""
        content = read_config(Path(path))
        content.pop("class")
        model = cls(**content)
        model.load_state_dict(read_weights(Path(path)))
        return model.eval()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Also where tied tensors are there once."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        own = self.state_dict(keep_vars=True)
        given = {id(own[name]) for name in state_dict if name in own}
        missing = [name for name in found.missing_keys if id(own[name]) not in given]
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"the saved weights do not fit: missing {missing[:3]}, unexpected {found.unexpected_keys[:3]}")
        return found


def build(spec: dict[str, Any], *, vocab_size: int, length: int) -> nn.Module:
    """The module that `spec` names, with new weights.

    Args:
        spec: `{"source": "file", "path", "function"}` or `{"source": "transformers", "path"}`, perhaps with `"sizes"` in place of its own.
        vocab_size: V.
        length: tokens in a window.

    Raises:
        ValueError: the file fails, gives no module, or the folder has no causal language model.
    """
    try:
        if spec["source"] == "file":
            net = _from_file(spec, vocab_size, length)
        else:
            from ..hf.architecture import causal_architecture

            net = causal_architecture(spec["path"], vocab_size=vocab_size, length=length, sizes=spec.get("sizes"))
    except Exception as error:  # of somebody else's code
        raise ValueError(f"model: {name_of(spec)} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"model: {name_of(spec)} must give an nn.Module, got {type(net).__name__}")
    return net


def name_of(spec: dict[str, Any]) -> str:
    return f"{spec['path']}:{spec['function']}" if spec.get("function") else str(spec["path"])


def _from_file(spec: dict[str, Any], vocab_size: int, length: int) -> Any:
    """The function is called with what it asks for of `vocab_size` (always) and `length`."""
    path = Path(spec["path"])
    found = importlib.util.spec_from_file_location(f"compared_{path.stem}", path)
    if found is None or found.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    function = getattr(module, spec["function"])
    named = inspect.signature(function).parameters
    more = {"length": length} if "length" in named else {}
    return function(vocab_size=vocab_size, **more) if "vocab_size" in named else function(vocab_size, **more)
