"""What is measured of models at one length, in a process of its own: `probe` looks at one model, `time_together` times several in turns.

Both tell what they found step by step through `tell`, so that nothing is lost of a process that the system ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ...benchmark.memory import load_libraries, peak_above
from ...benchmark.timing import interleave
from ...benchmark.work import training_step, without_gradients
from ...core.free_memory import keep_freed_memory
from ...core.state import State
from ...core.threads import use_threads
from ...generation.decode import PIECE, generate
from .cached import Cache, further, keeps_cache, read
from .subject import NEW_TOKENS, build_subject

Tell = Callable[[dict[str, Any]], None]
KINDS = ("train", "prefill", "token")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model at a length, on one sequence of tokens without meaning, (1, N + 1)."""

    model: Any
    tokens: Tensor
    causal: bool
    cached: bool = False
    """Whether it is a model of transformers with a cache."""

    @property
    def streams(self) -> bool:
        """Whether it carries a state from token to token."""
        return self.causal and (self.cached or (hasattr(self.model, "init_state") and hasattr(self.model, "extend")))

    def train(self) -> Callable[[], object]:
        """Forward and backward over N tokens; a causal model predicts N."""
        self.model.train()
        tokens = self.tokens if self.causal else self.tokens[:, :-1]
        return training_step(self.model, lambda: self.model.loss(tokens))

    def prefill(self) -> Callable[[], Any]:
        """N tokens read without gradients: by a model with a state as before decoding, which gives the state after them; by another in one
        forward pass."""
        self.model.eval()
        tokens = self.tokens[:, :-1]
        if self.streams:
            return without_gradients(lambda: self._read(tokens))
        last = {"last_only": True} if self.causal and "last_only" in signature(self.model.forward).parameters else {}
        return without_gradients(lambda: self.model(tokens, **last))

    def token(self, state: State | Cache) -> Callable[[], object]:
        """`NEW_TOKENS` tokens after a state, as generating does."""
        self.model.eval()
        if isinstance(state, Cache):
            return further(self.model, self.tokens[:, -1:], state, NEW_TOKENS)
        generator = torch.Generator(self.tokens.device).manual_seed(2)
        return partial(generate, self.model, self.tokens[:, -1:], max_new_tokens=NEW_TOKENS, state=state, generator=generator)

    def _read(self, tokens: Tensor) -> State | Cache:
        if self.cached:
            return read(self.model, tokens)
        state = self.model.init_state(1)
        for piece in tokens.split(PIECE, dim=1):
            _, state = self.model.extend(piece, state, last_only=True)
        return state


def subject_of(request: Mapping[str, Any], spec: dict[str, Any]) -> Subject:
    """A model of a request."""
    length, vocab_size, device = request["length"], request["vocab_size"], request["device"]
    model = build_subject(spec, length=length, vocab_size=vocab_size).to(device)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab_size, (1, length + 1), generator=generator).to(device)
    return Subject(model=model, tokens=tokens, causal=bool(model.config.causal), cached=keeps_cache(model.eval(), tokens))


def ready(request: Mapping[str, Any], tell: Tell) -> None:
    """Nothing: whoever answers has loaded everything."""


def probe(request: Mapping[str, Any], tell: Tell) -> None:
    """One model: the peak of a training step, and seconds of one call of each kind; the first of them is a cold one.

    Args:
        request: `spec`, `length`, `vocab_size`, `device`, `threads`.
    """
    use_threads(request["threads"])
    subject, device = subject_of(request, request["spec"]), request["device"]
    tell({"rereads": subject.causal and not subject.streams})
    load_libraries()
    began = time.perf_counter()
    peak = peak_above(subject.train(), device=device)
    tell({"train": time.perf_counter() - began, "bytes": None if peak is None else peak["above"]})
    subject.model.zero_grad(set_to_none=True)
    seconds, state = _timed(subject.prefill(), device)
    tell({"prefill": seconds})
    if subject.streams:
        tell({"state_bytes": state.nbytes()})
        tell({"token": _timed(subject.token(state), device)[0]})


def time_together(request: Mapping[str, Any], tell: Tell) -> None:
    """Several models: seconds of a training step, of reading the sequence, and of a further token, each interleaved over the models.

    Args:
        request: `specs` by name, `length`, `vocab_size`, `device`, `threads`, `rounds`, `least`, and `budget` in seconds.
    """
    use_threads(request["threads"])
    device = request["device"]
    if device == "cpu":
        keep_freed_memory()  # as in training
    began, subjects = time.perf_counter(), {}
    for name, spec in request["specs"].items():
        tell({"at": name})
        subjects[name] = subject_of(request, spec)
    shares = dict(zip(KINDS, (0.5, 0.8, 1.0), strict=True))  # of the budget, by when each kind has to be done
    for kind in KINDS:
        calls: dict[str, Callable[[], object]] = {}
        for name, subject in subjects.items():
            if kind != "token" or subject.streams:
                tell({"at": name})
                call = subject.token(subject.prefill()()) if kind == "token" else getattr(subject, kind)()
                calls[name] = _announced(call, name, tell)
        left = request["budget"] * shares[kind] - (time.perf_counter() - began)
        found = interleave(
            calls, rounds=request["rounds"], least=request["least"], budget=left, cap=float("inf"), synchronize=_synchronize(device)
        )
        scale = NEW_TOKENS if kind == "token" else 1
        seconds = {name: [value / scale for value in values] for name, values in found.seconds.items()}
        tell({"kind": kind, "seconds": seconds, "dropped": found.dropped})
        for subject in subjects.values():
            subject.model.zero_grad(set_to_none=True)


def _announced(call: Callable[[], object], name: str, tell: Tell) -> Callable[[], object]:
    """Tells of its first call, the likeliest one to end the process."""
    told = False

    def run() -> object:
        nonlocal told
        if not told:
            told = True
            tell({"at": name})
        return call()

    return run


def _timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    wait = _synchronize(device)
    wait()
    began = time.perf_counter()
    found = call()
    wait()
    return time.perf_counter() - began, found


def _synchronize(device: str) -> Callable[[], object]:
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None
