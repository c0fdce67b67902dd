"""Models that we are compared with, as sides of a case: the published packages, x-transformers, and exact attention of our own.

All are built at the sizes of ours and asked for the same loss. What is not installed is left out, which the report says.

Axes: B batch, N length, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..heads.quantization import quantize_
from .cases import BACK, PUBLISHED, Case, again, is_ours, label
from .checks import same_shape_and_finite
from .models import build_model
from .parts import build_layer, build_op
from .work import NotAvailable, Setting, Work, bidirectional_loss, bytes_of, make_tokens, training_step, without_gradients

Loss = Callable[[Any, Tensor], Tensor]


def build(side: str, case: Case, setting: Setting, shared: dict[str, Any]) -> Work:
    """Any side of a case, ready to be called.

    Args:
        shared: what one side makes and another uses again; one dictionary per case.

    Raises:
        NotAvailable: it cannot be had here.
        TooSlow: it takes longer than the case allows.
    """
    own = again(side, case)
    if own is not None:
        return build_model(case.sides[0], own, setting, shared)
    if case.kind == "op":
        return build_op(side, case, setting, shared)
    if case.kind == "layer":
        return build_layer(side, case, setting, shared)
    if side == "exact":
        return build_model("transformer" + BACK * case.sides[0].endswith(BACK), case, setting, shared)
    if side == "int8":
        return build_model(case.sides[0], case, setting, _in_8_bits(case, setting, shared))
    if is_ours(side):
        return build_model(side, case, setting, shared)
    return _build_other(side, case, setting)


def _in_8_bits(case: Case, setting: Setting, shared: dict[str, Any]) -> dict[str, Any]:
    """The first side's model, as `build_model` finds it in what sides share, with weights in 8 bits."""
    if case.mode == "train":
        raise NotAvailable("weights in 8 bits are not trained")
    name = case.sides[0]
    if name not in shared:
        build_model(name, case, setting, shared)
    return {name: quantize_(copy.deepcopy(shared[name]))}


def _build_other(side: str, case: Case, setting: Setting) -> Work:
    if side not in ("published", "x-transformers") or case.mode == "prefill":
        raise NotAvailable(f"{side} has no {case.mode} for a {case.kind}")
    torch.manual_seed(0)
    subject = case.sides[0]
    loss: Loss
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # some print and warn when they are imported
        warnings.simplefilter("ignore")
        if side == "x-transformers":
            model, loss = _x_transformers(case), _own_place if subject.endswith(BACK) else _next_token
        else:
            model, loss = _published(subject, case)
    model = model.to(setting.device, setting.dtype)
    if case.mode == "decode":
        return _published_decoding(side, model, case, setting)
    model.train(case.mode == "train")
    tokens = make_tokens(case, setting, case.length if loss is _own_place else case.length + 1)
    shape = (case.batch, case.length, case.sizes.vocabulary)

    def check() -> str | None:
        with torch.no_grad(), _quiet():
            output = _logits(model, tokens[:, : case.length])
            if side == "published" and subject == "perceiver_ar":  # it gives logits of its latents, when it is not given labels
                return same_shape_and_finite(output, (shape[0], case.latent_count, shape[2]), loss(model, tokens))
            wanted = tokens[:, -case.length :]  # the next ones, or the same
            return same_shape_and_finite(output, shape, F.cross_entropy(output.flatten(0, 1), wanted.flatten()))

    if case.mode == "train":
        call: Callable[[], object] = training_step(model, lambda: loss(model, tokens))
    else:
        call = without_gradients(lambda: _logits(model, tokens[:, : case.length]))
    return Work(call=call, tokens=case.batch * case.length, check=check, parameter_bytes=bytes_of(model))


def _published(subject: str, case: Case) -> tuple[nn.Module, Loss]:
    """The package's own language model, with everything that costs time as in ours, and its loss."""
    sizes, length = case.sizes, case.length
    plain = subject.removesuffix(BACK)
    common: dict[str, Any] = {"num_tokens": sizes.vocabulary, "dim": sizes.dim, "depth": sizes.depth, "heads": sizes.heads}
    if subject not in PUBLISHED:
        raise NotAvailable(f"no published package has a {subject}")
    if plain == "linformer":
        return installed("linformer").LinformerLM(**common, seq_len=length, k=sizes.slots), _own_place
    common["dim_head"] = sizes.width
    if plain == "performer":
        model = installed("performer_pytorch").PerformerLM(
            **common, max_seq_len=length, causal=subject == plain, nb_features=sizes.features
        )
        return model, _next_token if subject == plain else _own_place
    if plain == "fastformer":
        model = installed("fast_transformer_pytorch").FastTransformer(**common, max_seq_len=length, absolute_pos_emb=True)
        return model, _own_place
    if plain == "feedback_transformer":
        return installed("feedback_transformer_pytorch").FeedbackTransformer(**common, seq_len=1, mem_len=sizes.memories), _next_token
    prefix = length - case.latent_count
    model = installed("perceiver_ar_pytorch").PerceiverAR(**common, max_seq_len=length, cross_attn_seq_len=prefix, cross_attn_dropout=0.0)
    return model, lambda model, tokens: model(tokens[:, :-1], labels=tokens[:, 1:])


def _x_transformers(case: Case) -> nn.Module:
    package = installed("x_transformers")
    sizes = case.sizes
    layers = package.Encoder if case.sides[0].endswith(BACK) else package.Decoder
    stack = layers(dim=sizes.dim, depth=sizes.depth, heads=sizes.heads, attn_dim_head=sizes.width, attn_flash=True)
    return package.TransformerWrapper(num_tokens=sizes.vocabulary, max_seq_len=case.length, attn_layers=stack)


def _published_decoding(side: str, model: nn.Module, case: Case, setting: Setting) -> Work:
    """One token after a context, as performer-pytorch generates: the whole sequence again for each. The others have no such function, or
    one that costs the same."""
    if side != "published" or case.sides[0] != "performer":
        raise NotAvailable(f"{label(side, case)} is not asked to decode")
    with _quiet():
        generator = installed("performer_pytorch").AutoregressiveWrapper(model.eval())
    context = make_tokens(case, setting)

    def call() -> Tensor:
        return generator.generate(context, 1)

    def check() -> str | None:
        found = call()
        good = found.shape == (case.batch, 1) and bool(((found >= 0) & (found < case.sizes.vocabulary)).all())
        return None if good else f"it generates {tuple(found.shape)}, not one token for each row"

    return Work(call=call, tokens=case.batch, check=check, parameter_bytes=bytes_of(model))


def installed(name: str) -> Any:
    """A published package, imported.

    Raises:
        NotAvailable: it is not installed, or does not import here.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name == name:
            raise NotAvailable(f"{name.replace('_', '-')} is not installed") from error
        raise NotAvailable(f"{name.replace('_', '-')} does not import here: {error}") from error


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """(B, N, V). Fast Transformer of the published package runs only with a mask."""
    if type(model).__name__ == "FastTransformer":
        return model(tokens, mask=torch.ones_like(tokens, dtype=torch.bool))
    return model(tokens)


def _own_place(model: nn.Module, tokens: Tensor) -> Tensor:
    return bidirectional_loss(_logits(model, tokens), tokens)


def _next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(_logits(model, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@contextlib.contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
