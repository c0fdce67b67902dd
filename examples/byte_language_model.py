"""A language model over raw bytes: train a small causal Performer on the source text of Python's standard library, then let it write.

Prints bits per byte on text that the model has not seen, before and after training, compared with byte frequencies alone, and a sample.

On two cores: 17 seconds, from 8.20 to 2.94 bits per byte (byte frequencies: 4.52).
"""

import argparse
import sysconfig
from pathlib import Path

import torch

import subquadratic as sq


def read_text(files: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes to train on and bytes to test on, from different files."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[: files + 8]
    texts = [torch.frombuffer(bytearray(path.read_bytes() or b"\n"), dtype=torch.uint8).long() for path in paths]
    return torch.cat(texts[8:]), torch.cat(texts[:8])


def windows(text: torch.Tensor, count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """(count, length) pieces from random places."""
    starts = torch.randint(0, len(text) - length, (count, 1), generator=generator)
    return text[starts + torch.arange(length)]


@torch.no_grad()
def bits_per_byte(model: sq.LanguageModel, tokens: torch.Tensor) -> float:
    """Mean bits that the model needs per byte."""
    model.eval()
    bits = model.loss(tokens).item() / torch.log(torch.tensor(2.0)).item()
    model.train()
    return bits


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(argv).steps
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    training, test = read_text()
    held_out = windows(test, 16, 256, generator)
    shares = torch.bincount(training, minlength=256).add(1).float()
    frequencies = -(shares / shares.sum()).log2()[held_out].mean().item()

    config = sq.PerformerConfig(dim=64, depth=2, heads=4, local_heads=2, local_window=32, token_shift=True)
    model = sq.LanguageModel(config, vocab_size=256, tie_embeddings=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps + 1, pct_start=0.1)
    before = bits_per_byte(model, held_out)
    for _ in range(steps):
        loss = model.loss(windows(training, 8, 192, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    after = bits_per_byte(model, held_out)
    print(f"bits per byte of unseen text: {before:.2f} before, {after:.2f} after {steps} steps; byte frequencies: {frequencies:.2f}")

    prompt = torch.tensor([list(b"    def ")])
    written = model.generate(prompt, max_new_tokens=150, temperature=0.7, top_p=0.95, generator=generator)
    print(bytes(written[0].tolist()).decode(errors="replace"))
    return {"before": before, "after": after, "frequencies": frequencies}


if __name__ == "__main__":
    main()
