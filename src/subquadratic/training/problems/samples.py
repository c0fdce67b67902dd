"""Something to look at while a model learns: text it generates, text it fills in, and targets next to its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...data import Windows
from ...data.tokenizers.bytes import Tokenizer
from ...data.tokenizers.values import ValueTokenizer, reads_values
from ...generation.text import known_end
from ...layers.modes import evaluating

PROMPT_TOKENS = 24
NEW_TOKENS = 300
NEW_VALUES = 40  # integers or numbers, each of which is a word


def of_text(model: Any, windows: Windows, tokenizer: Tokenizer, *, seed: int) -> str:
    """A causal model goes on from the beginning of a validation window; the others fill in a piece of it."""
    if not model.config.causal:
        return filled_in(model, windows, tokenizer, seed=seed)
    return written(model, windows, tokenizer, seed=seed)


def written(model: Any, windows: Windows, tokenizer: Tokenizer, *, seed: int) -> str:
    """The prompt, a mark, and what a causal model writes after it, cut where it ends the document."""
    device = next(model.parameters()).device
    length = max(1, min(PROMPT_TOKENS, windows.length // 2))
    tokens = windows[len(windows) // 2][:length]
    wanted = NEW_VALUES if reads_values(tokenizer) else NEW_TOKENS
    new = wanted if model.max_length is None else min(wanted, model.max_length - length)
    generator = torch.Generator(device=device).manual_seed(seed)
    options: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "generator": generator}
    if isinstance(tokenizer, ValueTokenizer):
        options["banned"] = tokenizer.special  # which stand for no value
    else:
        options["eos_token"] = known_end(tokenizer, model.vocab_size)
    out = model.generate(tokens[None].to(device), max_new_tokens=new, **options)[0, length:]
    return f"{tokenizer.decode(tokens)}⟫{tokenizer.decode(out.cpu())}"


@torch.no_grad()
def filled_in(model: Any, windows: Windows, tokenizer: Tokenizer, *, seed: int) -> str:
    """A piece of a validation window three times: as it is, with the masked tokens shown as `_`, and as the model has it."""
    device = next(model.parameters()).device
    tokens = windows[len(windows) // 2]
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
    with evaluating(model):
        guesses = model(tokens[None].to(device), masked=masked[None].to(device))[0].argmax(-1).cpu()
    filled = torch.where(masked, guesses, tokens)
    shown = {"text": tokenizer.decode(tokens[:200]), "masked": _with_gaps(tokenizer, tokens[:200], masked[:200])}
    shown["filled in"] = tokenizer.decode(filled[:200])
    return "\n".join(f"[{name}]\n{text}" for name, text in shown.items())


def _with_gaps(tokenizer: Tokenizer, tokens: Tensor, masked: Tensor) -> str:
    """What is not masked, and `_` for each token that is."""
    if reads_values(tokenizer):
        pairs = zip(tokens.tolist(), masked.tolist(), strict=True)
        return " ".join("_" if hidden else tokenizer.decode([token]) for token, hidden in pairs)
    return tokenizer.decode(tokens.masked_fill(masked, int(tokenizer.encode("_")[0])))


@torch.no_grad()
def of_task(model: Any, items: Any, names: Sequence[str]) -> str:
    """One item of a task: its tokens, and under them the model's guesses where they are scored."""
    device = next(model.parameters()).device
    item = items[0]
    tokens, scored = item["tokens"], item["scored"]
    with evaluating(model):
        if model.config.causal:
            logits = model(tokens[None, :-1].to(device))[0]
            guesses = tokens.clone()
            guesses[-len(logits) :] = logits.argmax(-1).cpu()  # a Perceiver AR predicts its last positions only
        else:
            guesses = model(tokens[None].to(device), masked=scored[None].to(device))[0].argmax(-1).cpu()
    spelled = [names[int(t)] for t in tokens]
    guessed = [names[int(g)] for g in guesses]
    pairs = [f"{right}→{guess}" for right, guess, counts in zip(spelled, guessed, scored.tolist(), strict=True) if counts]
    return f"[tokens]\n{' '.join(spelled[:120])}\n[scored, and what the model says]\n{' '.join(pairs[:40])}"


def of_pairs(model: Any, items: Any, tokenizer: Tokenizer, count: int = 3) -> str:
    """A few sources, their targets, and the model's greedy prediction."""
    device = next(model.parameters()).device
    lines = []
    for index in range(min(count, len(items))):
        item = items[index]
        limit = len(item["target"]) + 20 if model.decoder.max_length is None else model.decoder.max_length - 1
        out = model.generate(
            item["source"][None].to(device),
            item["target"][None, :1].to(device),
            max_new_tokens=max(1, min(limit, len(item["target"]) + 20)),
            temperature=0.0,
            eos_token=known_end(tokenizer, model.decoder.vocab_size),
        )
        parts = {"source": item["source"], "target": item["target"], "model": out[0].cpu()}
        lines.append("\n".join(f"[{name}] {tokenizer.decode(part)}" for name, part in parts.items()))
    return "\n".join(lines)
