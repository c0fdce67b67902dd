"""Genome-like sequences: find the strands that hold a cluster of binding sites.

Strands of 600 random bases. Half of them hold twelve copies of the motif TATAWAWR at random places (IUPAC codes: W is A or T, R is A or G),
each drawn anew; the other half twelve copies with their bases shuffled, so that counting bases does not help. Bases are read as overlapping
words of four. A bidirectional Performer classifies the strand. Prints the accuracy on new strands before and after training.

On two cores: 20 seconds, from 32 % to 100 %.
"""

import argparse

import torch
from torch import Tensor

import subquadratic as sq

BASES, MOTIF, SITES, WORD = "ACGT", "TATAWAWR", 12, 4
CODES = {"W": "AT", "R": "AG"}


def make_batch(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words (rows, length - WORD + 1) and labels (rows,): whether the motif is there."""
    strands = torch.randint(4, (rows, length), generator=generator)
    labels = torch.randint(2, (rows,), generator=generator)
    allowed = [torch.tensor([BASES.index(base) for base in CODES.get(code, code)]) for code in MOTIF]
    for row in range(rows):
        for place in torch.randperm(length // len(MOTIF), generator=generator)[:SITES] * len(MOTIF):
            site = torch.stack([bases[torch.randint(len(bases), (), generator=generator)] for bases in allowed])
            if not labels[row]:
                site = site[torch.randperm(len(site), generator=generator)]
            strands[row, place : place + len(site)] = site
    powers = 4 ** torch.arange(WORD)
    return (strands.unfold(1, WORD, 1) * powers).sum(dim=-1), labels


@torch.no_grad()
def accuracy(model: sq.SequenceClassifier, words: Tensor, labels: Tensor) -> float:
    """Share of strands classified rightly."""
    model.eval()
    right = (model(words).argmax(dim=1) == labels).float().mean().item()
    model.train()
    return right


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--length", type=int, default=600, help="bases of a strand")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = sq.PerformerConfig(dim=48, depth=1, heads=4, causal=False, local_heads=2, local_window=16, features=32, token_shift=True)
    model = sq.SequenceClassifier(config, vocab_size=4**WORD, num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    test = make_batch(200, options.length, generator)
    before = accuracy(model, *test)
    for _ in range(options.steps):
        loss = model.loss(*make_batch(16, options.length, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = accuracy(model, *test)
    print(f"accuracy on 200 new strands: {before:.0%} before, {after:.0%} after {options.steps} steps")
    return {"before": before, "after": after}


if __name__ == "__main__":
    main()
