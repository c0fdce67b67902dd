"""Our models as sides of a case.

Axes: B batch, N length.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import models as ours
from ..heads.language_model import LanguageModel
from ..training.configuration import backbone_config
from ..training.options import TrainOptions
from ..training.precision import forward_precision
from ..training.resolving import resolve
from .cases import BACK, STREAMED, Case
from .checks import both_ways, finite_gradients, streaming_model
from .work import (
    CHECKED,
    NEW_TOKENS,
    Setting,
    Work,
    bidirectional_loss,
    bytes_of,
    bytes_read_by_a_token,
    make_tokens,
    read_context,
    training_step,
    without_gradients,
)


def config_of(name: str, case: Case) -> ours.BackboneConfig:
    """The configuration of a subject at a case's sizes, or as `subq train` has it by default."""
    plain = name.removesuffix(BACK)
    if case.kind == "default":
        return backbone_config(resolve(TrainOptions(model=name)))
    sizes, room = case.sizes, case.length + NEW_TOKENS + 1
    common: dict[str, Any] = {"dim": sizes.dim, "depth": sizes.depth, "heads": sizes.heads}
    if case.kind == "million":
        common["checkpointing"] = True
    if plain == "performer":
        return ours.PerformerConfig(**common, features=sizes.features, causal=name == plain)
    if plain == "linformer":
        # Positions without a table: the weights of the slots are one already, and grow with the longest context.
        positions: dict[str, Any] = {"positions": "fixed"} if case.mode in STREAMED else {}
        length = room if name == plain else case.length
        return ours.LinformerConfig(**common, slots=sizes.slots, max_length=length, causal=name == plain, **positions)
    if plain == "fastformer":
        return ours.FastformerConfig(**common, causal=name == plain)
    if plain == "feedback_transformer":
        return ours.FeedbackTransformerConfig(**common, segment_length=1, memory_length=sizes.memories)
    if plain == "gated_linear":
        return ours.GatedLinearConfig(**common)
    if plain == "perceiver_ar":
        return ours.PerceiverARConfig(**common, latents=case.latent_count)
    return ours.TransformerConfig(**common, causal=name == plain)


def build_model(name: str, case: Case, setting: Setting, shared: dict[str, Any]) -> Work:
    """A language model in the case's mode.

    Args:
        name: the subject.
        shared: models by subject, made here and used again by a side that is the same one after fewer tokens.

    Raises:
        TooSlow: the context of a decoded token takes too long to read.
    """
    if name not in shared:
        torch.manual_seed(0)
        shared[name] = LanguageModel(config_of(name, case), vocab_size=case.sizes.vocabulary).to(setting.device, setting.dtype)
    model = shared[name].train(case.mode == "train")
    weights = bytes_of(model)
    check = partial(_check, model, case, setting)
    count = case.real_tokens
    if case.mode in STREAMED:
        return _decoding(model, case, setting, check=check, parameter_bytes=bytes_read_by_a_token(model))
    if case.mode == "train":
        return Work(call=train_call(model, case, setting), tokens=count, check=check, parameter_bytes=weights)
    tokens = make_tokens(case, setting)
    if case.mode == "forward":
        return Work(call=without_gradients(lambda: model(tokens)), tokens=count, check=check, parameter_bytes=weights)
    prefill = without_gradients(lambda: model.extend(tokens, model.init_state(case.batch), last_only=True))
    return Work(call=prefill, tokens=count, check=check, parameter_bytes=weights)


def train_call(model: LanguageModel, case: Case, setting: Setting) -> Any:
    """One training step on N predictions: of the next token, or bidirectional of each token at its own place."""
    mask = _mask(case, setting)
    if model.config.causal:
        tokens = make_tokens(case, setting, case.length + (mask is None))
        return training_step(model, lambda: _loss(model, tokens, mask, case))
    tokens = make_tokens(case, setting)
    if mask is None:
        return training_step(model, lambda: bidirectional_loss(model(tokens), tokens))
    return training_step(model, lambda: F.cross_entropy(model(tokens, mask=mask)[mask], tokens[mask]))


def _loss(model: LanguageModel, tokens: Tensor, mask: Tensor | None, case: Case) -> Tensor:
    """Of the next token; of a default of `subq train` in the precision that it trains in."""
    with forward_precision("auto") if case.kind == "default" else contextlib.nullcontext():
        return model.loss(tokens, mask)


def _mask(case: Case, setting: Setting) -> Tensor | None:
    """(B, N), True = real token; None without padding."""
    if not case.row_lengths:
        return None
    return (torch.arange(case.length) < torch.tensor(case.row_lengths)[:, None]).to(setting.device)


def _decoding(model: LanguageModel, case: Case, setting: Setting, **known: Any) -> Work:
    """New tokens after a context: read, chosen at random and read again, as generating does; or given, one at a time."""
    context = make_tokens(case, setting)
    state = read_context(model, context, model.init_state(case.batch), limit=case.cap, clock=time.perf_counter)
    last = context[:, -1:]
    if case.mode == "extend":
        given = make_tokens(case, setting, NEW_TOKENS).split(1, dim=1)

        def extend() -> None:
            after: Any = state
            for token in given:
                _, after = model.extend(token, after)

        return Work(call=without_gradients(extend), tokens=case.batch * NEW_TOKENS, state_bytes=state.nbytes(), **known)
    generator = torch.Generator(setting.device).manual_seed(2)
    return Work(
        call=lambda: model.generate(last, max_new_tokens=NEW_TOKENS, state=state, generator=generator),
        tokens=case.batch * NEW_TOKENS,
        state_bytes=state.nbytes(),
        **known,
    )


def _check(model: LanguageModel, case: Case, setting: Setting) -> str | None:
    """On a short sequence, in the mode that is measured otherwise."""
    length = min(CHECKED, case.length)
    tokens = make_tokens(case, setting, length)
    training = model.training
    model.eval()
    try:
        if not model.config.causal:
            wrong = both_ways(model, tokens, tolerance=setting.tolerance)
        else:
            few = {"latents": max(1, length // 4)} if model.config.aligned_right else {}
            wrong = streaming_model(model, tokens, lambda x: (x + 1) % case.sizes.vocabulary, tolerance=setting.tolerance, **few)
    finally:
        model.train(training)
    if wrong is None and case.mode == "train" and length > 1:
        training_step(model, lambda: model.loss(tokens) if model.config.causal else bidirectional_loss(model(tokens), tokens))()
        wrong = finite_gradients(model)
        model.zero_grad(set_to_none=True)
    return wrong
