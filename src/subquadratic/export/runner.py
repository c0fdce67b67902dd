"""Exported models run by ONNX Runtime, with NumPy arrays and without PyTorch.

Axes: B batch, N length, S length of a source, V vocabulary.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from .arrays import Texts, check_positions, checked, choose
from .layout import DESCRIPTION, FORMAT, graph_file

OnnxState = dict[str, np.ndarray]
"""The tensors of a state by the names of the graph's inputs."""
SEEN = "state.seen"


class OnnxModel:
    """What :func:`subquadratic.export.onnx` wrote: the same calls as of the model, on arrays.

    Args:
        folder: that it was written to.
        providers: of ONNX Runtime; None: its processor.
        session_options: of ONNX Runtime, its ``SessionOptions``; None: its own choices.

    Raises:
        FileNotFoundError: if the folder holds no exported model.
        ValueError: if it is of another format, or an encoder-decoder, which :meth:`load` opens.
        ModuleNotFoundError: without the package ``onnxruntime``.
    """

    kinds: tuple[str, ...] = ("LanguageModel", "SequenceClassifier")

    def __init__(self, folder: str | os.PathLike[str], *, providers: Sequence[Any] | None = None, session_options: Any = None):
        self.folder, self.providers, self._session_options = Path(folder), list(providers or ("CPUExecutionProvider",)), session_options
        content = _read(self.folder)
        self.kind, self.options, self.causal, self._state = (content[name] for name in ("class", "options", "causal", "state"))
        if self.kind not in self.kinds:
            raise ValueError(f"{folder} holds an exported {self.kind}: open it with OnnxModel.load")
        self.max_length, self._source_max_length = content.get("max_length"), content.get("source_max_length")
        self._roles = content.get("tokens")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, providers: Sequence[Any] | None = None, session_options: Any = None) -> Self:
        """As the constructor; of an encoder-decoder an :class:`OnnxEncoderDecoder`."""
        kind: Any = OnnxEncoderDecoder if _read(Path(folder))["class"] in OnnxEncoderDecoder.kinds else OnnxModel
        return kind(folder, providers=providers, session_options=session_options)

    def __call__(self, tokens: Any, mask: Any = None) -> np.ndarray:
        """Logits of whole sequences: (B, N, V) of a language model, (B, classes) of a classifier.

        Args:
            tokens: (B, N) integers.
            mask: (B, N) bool, True = real token; None: all are.

        Raises:
            ValueError: for wrong shapes, tokens out of range, more positions than ``max_length``.
        """
        tokens, mask = checked(tokens, mask, self._vocab_size)
        check_positions(mask, 0, self.max_length)
        return self._run("forward", {"tokens": tokens, "mask": mask})[0]

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
        tokens, mask = checked(tokens, mask, self._vocab_size)
        _check_state(state, [one["name"] for one in self._state], len(tokens))
        check_positions(mask, state.get(SEEN, 0), self.max_length)
        name = "step" if tokens.shape[1] == 1 and (self.folder / graph_file("step")).is_file() else "extend"
        logits, *after = self._run(name, {"tokens": tokens, "mask": mask, **state})
        return logits, dict(zip((one["name"] for one in self._state), after, strict=True))

    def generate(self, prompt: Any, *, mask: Any = None, **options: Any) -> np.ndarray:
        """The prompt and its continuation: (B, N) -> (B, N + new). After ``eos_token`` a row holds nothing else.

        Args:
            prompt: (B, N) integers, N at least 1.
            mask: (B, N) bool, True = real token, one at least per row.
            options: ``max_new_tokens``: the most new tokens, 64; fewer when all rows have ended. ``temperature``: 0, the likeliest token;
                else one drawn with the logits divided by it. ``top_k``: draw among so many likeliest ones. ``eos_token``: that ends a
                row. ``seed``: of the draws.

        Raises:
            ValueError: for a classifier, a bidirectional model, or values out of range.
        """
        self._require_causal()
        if self.kind == "SequenceClassifier":
            raise ValueError(f"generate is for language models, and this is a {self.kind}")
        return self._generate(prompt, mask, self.init_state(len(prompt)), **options)

    def encode(self, texts: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Texts to tokens and mask (B, N), padded on the left: ``model(*model.encode(texts))``.

        Raises:
            ValueError: if the model was exported without its tokenizer.
        """
        return self._texts.encode([texts] if isinstance(texts, str) else texts)

    def decode(self, tokens: Any) -> list[str]:
        """(B, N) tokens to texts, each up to the token that ends it."""
        return self._texts.decode(tokens)

    def generate_text(self, prompt: str | Sequence[str], **options: Any) -> Any:
        """What follows a text, or each of several, up to the token that ends a text.

        Args:
            prompt: a text or several; an empty one: a text from its beginning.
            options: of :meth:`generate`.

        Returns:
            A text, or a list of texts.
        """
        tokens, mask = self._texts.encode([prompt] if isinstance(prompt, str) else prompt, begin=True)
        written = self.generate(tokens, mask=mask, **{"eos_token": self._texts.roles["eos"], **options})
        found = self.decode(written[:, tokens.shape[1] :])
        return found[0] if isinstance(prompt, str) else found

    def _generate(
        self, prompt: Any, mask: Any, state: OnnxState, *, max_new_tokens: int = 64, temperature: float = 0.0, top_k: int | None = None,
        eos_token: int | None = None, seed: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        if temperature < 0 or (top_k is not None and top_k < 1):
            raise ValueError(f"temperature must be at least 0 and top_k at least 1, got {temperature!r} and {top_k!r}")
        tokens, real = checked(prompt, mask, self._vocab_size, name="prompt")
        if not real.any(axis=1).all():
            raise ValueError("mask must leave a real token in each row of the prompt")
        if self.max_length is not None:  # before the first token; the last one is never read
            check_positions(real, max(max_new_tokens - 1, 0), self.max_length)
        generator, ended = np.random.default_rng(seed), np.zeros(len(tokens), dtype=bool)
        logits, state = self.extend(tokens, state, real)
        last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)  # of each row's real tokens
        scores = logits[np.arange(len(tokens)), last]
        line = [np.asarray(prompt, dtype=np.int64)]
        for made in range(max_new_tokens):
            if made:
                logits, state = self.extend(line[-1], state)
                scores = logits[:, -1]
            chosen = choose(scores, temperature, top_k, generator)
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

    @property
    def _vocab_size(self) -> int:
        return int(self.options.get("target_vocab_size") or self.options["vocab_size"])

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.folder, self._roles)

    @cached_property
    def _sessions(self) -> dict[str, Any]:
        return {}

    def _session(self, name: str) -> Any:
        import onnxruntime

        if name not in self._sessions:
            file = self.folder / graph_file(name)
            self._sessions[name] = onnxruntime.InferenceSession(file, sess_options=self._session_options, providers=self.providers)
        return self._sessions[name]

    def _run(self, name: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        session = self._session(name)
        taken = {one.name for one in session.get_inputs()}  # a graph that ignores an input has none of that name
        given = {name: value for name, value in given.items() if name in taken}
        if all(len(value) for value in given.values()):
            return session.run(None, given)
        rows = {name: np.zeros((1, *value.shape[1:]), value.dtype) for name, value in given.items()}  # graphs cannot divide an empty batch
        return [value[:0] for value in session.run(None, rows)]


class OnnxEncoderDecoder(OnnxModel):
    """An exported encoder-decoder, with the calls of :class:`~subquadratic.EncoderDecoder`. Its arguments and errors are those of
    :class:`OnnxModel`."""

    kinds = ("EncoderDecoder",)

    def __call__(  # type: ignore[override]
        self, source: Any, target: Any, *, source_mask: Any = None, target_mask: Any = None
    ) -> np.ndarray:
        """Logits of the target, (B, N, V).

        Args:
            source: (B, S) integers.
            target: (B, N) integers.
            source_mask, target_mask: (B, S) and (B, N) bool, True = real token; None: all are.
        """
        return self.extend(target, self.init_state(source=source, source_mask=source_mask), target_mask)[0]

    def init_state(self, batch_size: int | None = None, *, source: Any, source_mask: Any = None) -> OnnxState:  # type: ignore[override]
        """The state before the first target token, once the source (B, S) is read. ``batch_size``: None, or that of ``source``."""
        source, mask = checked(source, source_mask, int(self.options["vocab_size"]), name="source")
        if batch_size not in (None, len(source)):
            raise ValueError(f"batch_size must be that of source, {len(source)}, got {batch_size}")
        check_positions(mask, 0, self._source_max_length)
        found = self._run("encoder", {"source": source, "source_mask": mask})
        return dict(zip((one["name"] for one in self._state), found, strict=True))

    def generate(  # type: ignore[override]
        self, source: Any, prompt: Any, *, source_mask: Any = None, mask: Any = None, **options: Any
    ) -> np.ndarray:
        """The target's beginning and what follows: (B, N) -> (B, N + new).

        Args:
            source: (B, S) integers.
            prompt: (B, N) integers, the target's first tokens (a start token, say).
            source_mask, mask: (B, S) and (B, N) bool, True = real token.
            options: of :meth:`OnnxModel.generate`.
        """
        return self._generate(prompt, mask, self.init_state(source=source, source_mask=source_mask), **options)

    def generate_text(self, source: str | Sequence[str], **options: Any) -> Any:  # type: ignore[override]
        """The target that is written for a text, or for each of several: a text, or a list of texts. ``options``: of ``generate``."""
        tokens, mask = self.encode(source)
        prompt = np.full((len(tokens), 1), self._texts.begin(), dtype=np.int64)
        written = self.generate(tokens, prompt, source_mask=mask, **{"eos_token": self._texts.roles["eos"], **options})
        found = self.decode(written[:, 1:])
        return found[0] if isinstance(source, str) else found


def _read(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not an exported model: it has no {DESCRIPTION}")
    content: dict[str, Any] = json.loads(file.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"{file} has another format than {FORMAT}, the one that this version reads")
    return content


def _check_state(state: OnnxState, names: list[str], rows: int) -> None:
    """Raises ValueError for what is no state of this model, for so many rows; a state that was saved may come in any order."""
    if state.keys() != set(names):
        wrong = sorted(state.keys() ^ set(names))
        raise ValueError(f"state must have the tensors that init_state gives, {len(names)} of them, and differs in {', '.join(wrong[:3])}")
    sizes = {len(value) for value in state.values()}
    if sizes - {rows}:
        raise ValueError(f"state must be of as many rows as tokens, {rows}, got {sorted(sizes)}")
