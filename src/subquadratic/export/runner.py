"""Exported models run by ONNX Runtime, with NumPy arrays and without PyTorch.

Axes: B batch, N length, V vocabulary.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from .layout import DESCRIPTION, FORMAT, graph_file

OnnxState = dict[str, np.ndarray]
"""The tensors of a state by the names of the graph's inputs."""


class OnnxModel:
    """What :func:`subquadratic.export.onnx` wrote: the same calls as of the model, on arrays.

    Args:
        folder: that it was written to.
        providers: of ONNX Runtime; None: its processor.

    Raises:
        FileNotFoundError: if the folder holds no exported model.
        ValueError: if it is of another format.
        ModuleNotFoundError: without the package ``onnxruntime``.
    """

    def __init__(self, folder: str | os.PathLike[str], *, providers: Sequence[str] | None = None):
        self.folder, self.providers = Path(folder), list(providers or ("CPUExecutionProvider",))
        file = self.folder / DESCRIPTION
        if not file.is_file():
            raise FileNotFoundError(f"{self.folder} is not an exported model: it has no {DESCRIPTION}")
        content = json.loads(file.read_text())
        if content.get("format") != FORMAT:
            raise ValueError(f"{file} has another format than {FORMAT}, the one that this version reads")
        self.kind, self.options, self.causal, self._state = (content[name] for name in ("class", "options", "causal", "state"))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, providers: Sequence[str] | None = None) -> Self:
        """As the constructor."""
        return cls(folder, providers=providers)

    def __call__(self, tokens: Any, mask: Any = None) -> np.ndarray:
        """Logits of whole sequences: (B, N, V) of a language model, (B, classes) of a classifier.

        Args:
            tokens: (B, N) integers.
            mask: (B, N) bool, True = real token; None: all are.
        """
        return self._run(self._forward, *_arrays(tokens, mask), {})[0]

    def init_state(self, batch_size: int) -> OnnxState:
        """The state before the first token.

        Raises:
            ValueError: if the model is bidirectional.
        """
        self._require_causal()
        shapes = [(batch_size, *one["shape"][1:]) for one in self._state]
        rows = [np.asarray(one["row"], one["dtype"]) for one in self._state]
        return {one["name"]: np.broadcast_to(row, shape).copy() for one, row, shape in zip(self._state, rows, shapes, strict=True)}

    def extend(self, tokens: Any, state: OnnxState, mask: Any = None) -> tuple[np.ndarray, OnnxState]:
        """The next tokens (B, N), any number from 1, and the state before -> logits and the state after. ``state`` is not changed."""
        self._require_causal()
        tokens, mask = _arrays(tokens, mask)
        session = self._step if tokens.shape[1] == 1 and self._path("step").is_file() else self._extend
        logits, *after = self._run(session, tokens, mask, state)
        return logits, dict(zip(state, after, strict=True))

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int = 64,
        mask: Any = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        eos_token: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """The prompt and its continuation: (B, N) -> (B, N + new). After ``eos_token`` a row holds nothing else.

        Args:
            prompt: (B, N) integers, N at least 1.
            max_new_tokens: the most new tokens; fewer when all rows have ended.
            mask: (B, N) bool, True = real token, one at least per row.
            temperature: 0: the likeliest token; else one drawn with the logits divided by it.
            top_k: draw among so many likeliest ones.
            eos_token: that ends a row.
            seed: of the draws.

        Raises:
            ValueError: for a classifier, a bidirectional model, or values out of range.
        """
        self._require_causal()
        if self.kind != "LanguageModel":
            raise ValueError(f"generate is for language models, and this is a {self.kind}")
        if temperature < 0 or (top_k is not None and top_k < 1):
            raise ValueError(f"temperature must be at least 0 and top_k at least 1, got {temperature!r} and {top_k!r}")
        tokens, real = _arrays(prompt, mask)
        if not real.any(axis=1).all():
            raise ValueError("mask must leave a real token in each row of the prompt")
        generator, ended = np.random.default_rng(seed), np.zeros(len(tokens), dtype=bool)
        logits, state = self.extend(tokens, self.init_state(len(tokens)), real)
        last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)  # of each row's real tokens
        scores = logits[np.arange(len(tokens)), last - real.shape[1]]
        line = [tokens]
        for made in range(max_new_tokens):
            if made:
                logits, state = self.extend(line[-1], state)
                scores = logits[:, -1]
            chosen = _choose(scores, temperature, top_k, generator)
            if eos_token is not None:
                chosen = np.where(ended, eos_token, chosen)
                ended |= chosen == eos_token
            line.append(chosen[:, None])
            if ended.all():
                break
        return np.concatenate(line, axis=1)

    def _require_causal(self) -> None:
        if not self.causal:
            raise ValueError("this model is bidirectional: it has no state to extend; call it on whole sequences")

    def _path(self, name: str) -> Path:
        return self.folder / graph_file(name)

    def _session(self, name: str) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self._path(name), providers=self.providers)

    @cached_property
    def _forward(self) -> Any:
        return self._session("forward")

    @cached_property
    def _extend(self) -> Any:
        return self._session("extend")

    @cached_property
    def _step(self) -> Any:
        return self._session("step")

    def _run(self, session: Any, tokens: np.ndarray, mask: np.ndarray, state: OnnxState) -> list[np.ndarray]:
        taken = {one.name for one in session.get_inputs()}  # a graph that ignores an input has none of that name
        given = {"tokens": tokens, "mask": mask, **state}
        return session.run(None, {name: value for name, value in given.items() if name in taken})


def _arrays(tokens: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] < 1 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers (batch, length) with length at least 1, got {tokens.dtype} {tokens.shape}")
    real = np.ones(tokens.shape, dtype=bool) if mask is None else np.asarray(mask)
    if real.shape != tokens.shape or real.dtype != bool:
        raise ValueError(f"mask must be bool {tokens.shape}, True = real token, got {real.dtype} {real.shape}")
    return tokens.astype(np.int64), real


def _choose(scores: np.ndarray, temperature: float, top_k: int | None, generator: np.random.Generator) -> np.ndarray:
    """(B, V) -> (B,) tokens."""
    if temperature == 0:
        return scores.argmax(axis=-1)
    scores = scores.astype(np.float64) / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = np.where(scores < np.partition(scores, -top_k, axis=-1)[:, -top_k, None], -np.inf, scores)
    return (scores + generator.gumbel(size=scores.shape)).argmax(axis=-1)  # the Gumbel trick: a draw from the softmax
