"""A taste of a trained model: text it writes, or text it fills in."""

from __future__ import annotations

from typing import Any

import torch

from ..data import ByteTokenizer, Windows

PROMPT = "def "
NEW_TOKENS = 300


def sample_of(model: Any, windows: Windows, *, seed: int) -> str:
    """A few hundred bytes after `def ` from a causal model; from the others, a piece of validation text filled in."""
    return written(model, seed=seed) if model.config.causal else filled_in(model, windows, seed=seed)


def written(model: Any, *, seed: int, prompt: str = PROMPT) -> str:
    """What a causal model writes after `prompt`, cut where it ends the document."""
    tokenizer = ByteTokenizer()
    device = next(model.parameters()).device
    tokens = torch.from_numpy(tokenizer.encode(prompt).astype("int64"))[None].to(device)
    new = NEW_TOKENS if model.max_length is None else min(NEW_TOKENS, model.max_length - tokens.shape[1])
    if new < 1:
        return ""
    generator = torch.Generator(device=device).manual_seed(seed)
    out = model.generate(tokens, max_new_tokens=new, temperature=0.7, top_p=0.95, generator=generator)[0].tolist()
    end = out.index(tokenizer.eos_token) if tokenizer.eos_token in out else len(out)
    return tokenizer.decode(out[:end])


@torch.no_grad()
def filled_in(model: Any, windows: Windows, *, seed: int) -> str:
    """A piece of a validation window three times: as it is, with the masked bytes shown as `_`, and as the model has it."""
    tokenizer = ByteTokenizer()
    device = next(model.parameters()).device
    tokens = windows[len(windows) // 2]
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
    model.eval()
    guesses = model(tokens[None].to(device), masked=masked[None].to(device))[0].argmax(-1).cpu()
    shown = [tokens, tokens.masked_fill(masked, ord("_")), torch.where(masked, guesses, tokens)]
    names = ("text", "masked", "filled in")
    return "\n".join(f"[{name}]\n{tokenizer.decode(part[:200])}" for name, part in zip(names, shown, strict=True))
