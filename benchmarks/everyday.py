"""Everyday work as calls to be timed, by name: what an install is measured at by `against.py`. Only what every version has is used.

    train/performer/2048                forward and backward of the loss, one sequence
    train/linformer-bidirectional/4096
    default/performer                   the same of the model, the batch and the precision that `subq train` has by default
    padded/performer                    8 sequences of 256 to 2,048 tokens, right-padded; time per real token
    unpadded/performer                  as many real tokens in 8 sequences of equal lengths, without a mask
    masked/transformer-bidirectional    one sequence of 2,048 tokens with a mask that leaves out an eighth of it
    unmasked/transformer-bidirectional
    window/64                           window attention of 4,096 tokens, forward and backward
    decode/performer/32                 `generate`: 32 sequences, 64 new tokens after 64
    extend/performer/1                  `extend` by 64 tokens, one at a time

Width 256, depth 4, 4 heads, vocabulary 256, float32, weights and tokens from seed 0. Started by `against.py` with the Python of an install,
this file reads a request a line: {"case": name} builds and warms up, {"calls": count} times so many calls.

Axes: B batch, N length.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import subquadratic as sq

BACK = "-bidirectional"
SIZES: dict[str, Any] = {"dim": 256, "depth": 4, "heads": 4}
VOCABULARY, SHORTEST, LONGEST, ROWS = 256, 256, 2048, 8
LENGTHS = (2048, 4096)
CAUSAL = ("performer", "linformer", "fastformer", "gated_linear", "perceiver_ar", "transformer")
BOTH_WAYS = tuple(f"{name}{BACK}" for name in ("performer", "linformer", "fastformer", "transformer"))
FEEDBACK = "feedback_transformer"  # steps of 256 tokens: it goes token by token
PADDED = (*CAUSAL, *BOTH_WAYS)
BATCHES, NEW = (1, 32, 128), 64
CASES = (
    *(f"train/{name}/{length}" for name in (*CAUSAL, *BOTH_WAYS) for length in LENGTHS),
    f"train/{FEEDBACK}/256",
    *(f"default/{name}" for name in (*CAUSAL, FEEDBACK)),
    *(f"{kind}/{name}" for name in PADDED for kind in ("padded", "unpadded")),
    *(f"{kind}/{name}" for name in (f"transformer{BACK}", "perceiver_ar") for kind in ("masked", "unmasked")),
    "window/64",
    "window/256",
    *(f"{kind}/performer/{batch}" for batch in BATCHES for kind in ("decode", "extend")),
)
Call = Callable[[], object]


def build(name: str) -> tuple[Call, int]:
    """What is called, and how many real tokens a call goes through."""
    kind, subject, *rest = name.split("/")
    torch.manual_seed(0)
    if kind == "window":
        return _window(int(subject)), 2 * LONGEST
    if kind in ("decode", "extend"):
        return _streaming(kind, subject, int(rest[0])), NEW * int(rest[0])
    if kind == "default":
        return _default(subject)
    if kind == "train":
        tokens, mask = _tokens(1, int(rest[0])), None
    elif kind in ("masked", "unmasked"):
        tokens = _tokens(1, LONGEST)
        mask = _prefix(torch.tensor([LONGEST * 7 // 8]), LONGEST) if kind == "masked" else None
    else:
        lengths = torch.randint(SHORTEST, LONGEST + 1, (ROWS,), generator=torch.Generator().manual_seed(1))
        tokens = _tokens(ROWS, LONGEST) if kind == "padded" else _tokens(ROWS, int(lengths.sum()) // ROWS)
        mask = _prefix(lengths, LONGEST) if kind == "padded" else None
    return _training(subject, tokens, mask), tokens.numel() if mask is None else int(mask.sum())


def _tokens(batch: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(2))


def _prefix(lengths: Tensor, length: int) -> Tensor:
    return torch.arange(length) < lengths[:, None]


def _model(subject: str, length: int) -> Any:
    name = subject.removesuffix(BACK)
    classes = {
        "performer": sq.PerformerConfig, "linformer": sq.LinformerConfig, "fastformer": sq.FastformerConfig,
        "gated_linear": sq.GatedLinearConfig, "perceiver_ar": sq.PerceiverARConfig, "transformer": sq.TransformerConfig,
        FEEDBACK: sq.FeedbackTransformerConfig,
    }  # fmt: skip
    options = dict(SIZES)
    if name in ("performer", "linformer", "fastformer", "transformer"):
        options["causal"] = name == subject
    if name == "linformer":
        options["max_length"] = length
    if name == "perceiver_ar":
        options["latents"] = length // 4
    return sq.LanguageModel(classes[name](**options), vocab_size=VOCABULARY)


def _training(subject: str, tokens: Tensor, mask: Tensor | None) -> Call:
    model = _model(subject, tokens.shape[1])

    def step() -> None:
        model.zero_grad(set_to_none=True)
        if subject.endswith(BACK):
            logits = model(tokens, mask=mask)
            real = slice(None) if mask is None else mask
            F.cross_entropy(logits[real].flatten(0, -2), tokens[real].flatten()).backward()
        else:
            model.loss(tokens, mask=mask).backward()

    return step


def _default(subject: str) -> tuple[Call, int]:
    from subquadratic.training.configuration import backbone_config
    from subquadratic.training.options import TrainOptions
    from subquadratic.training.resolving import resolve

    options = resolve(TrainOptions(model=subject))
    model = sq.LanguageModel(backbone_config(options), vocab_size=VOCABULARY)
    batch, context = int(options.batch_size or 1), int(options.context or 1)
    tokens = _tokens(batch, context + 1)
    try:
        from subquadratic.training.precision import forward_precision
    except ImportError:  # of versions that train in float32 on a CPU
        forward_precision = contextlib.nullcontext

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with forward_precision("auto"):
            loss = model.loss(tokens)
        loss.backward()

    return step, batch * context


def _window(window: int) -> Call:
    from subquadratic.attention.softmax.window import window_attention

    tensors = [torch.randn(1, 4, 2 * LONGEST, 64, requires_grad=True) for _ in range(3)]

    def run() -> None:
        torch.autograd.grad(window_attention(*tensors, window=window, causal=True).sum(), tensors)

    return run


def _streaming(kind: str, subject: str, batch: int) -> Call:
    model, tokens = _model(subject, LONGEST).eval(), _tokens(batch, NEW)
    if kind == "decode":
        return lambda: model.generate(tokens, max_new_tokens=NEW, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def extend() -> None:
        state = model.init_state(batch)
        for token in tokens.split(1, dim=1):
            _, state = model.extend(token, state)

    return extend


def main() -> None:
    call: Call = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, object]
        try:
            if "case" in request:
                call, tokens = build(request["case"])
                call(), call()
                answer = {"tokens": tokens}
            else:
                began, used = time.perf_counter(), time.process_time()
                for _ in range(request["calls"]):
                    call()
                answer = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        except Exception as error:  # an install may lack a model, or an option
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
