"""Classify documents of different lengths, up to 1,500 words: a few words, strewn about, tell the subject.

Each document draws most of its words from the same vocabulary, and thirty words from the forty of its own subject. Words become numbers by
hashing. A bidirectional Fastformer reads the whole document; shorter ones are padded, and the mask takes the padding out. Prints the
accuracy on new documents before and after training, and how far padding moves a result.

On two cores: 30 seconds, from 27 % right to 100 %; padding moves a logit by 4e-07.
"""

import argparse
import random
import zlib

import torch

import subquadratic as sq

VOCABULARY, PER_SUBJECT = 4096, 30
SUBJECTS = ("law", "medicine", "music", "cooking")


def number(word: str) -> int:
    """A word's token: the same on every machine, and no list of words to keep."""
    return zlib.crc32(word.encode()) % VOCABULARY


def make_batch(rng: random.Random, count: int, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (count, longest), which of them are real, and subjects (count,)."""
    tokens, mask = torch.zeros(count, longest, dtype=torch.long), torch.zeros(count, longest, dtype=torch.bool)
    subjects = [rng.randrange(len(SUBJECTS)) for _ in range(count)]
    for row, subject in enumerate(subjects):
        words = [f"common{rng.randrange(500)}" for _ in range(rng.randint(longest // 3, longest))]
        for place in rng.sample(range(len(words)), PER_SUBJECT):
            words[place] = f"{SUBJECTS[subject]}{rng.randrange(40)}"
        tokens[row, : len(words)], mask[row, : len(words)] = torch.tensor([number(word) for word in words]), True
    return tokens, mask, torch.tensor(subjects)


@torch.no_grad()
def accuracy(model: sq.SequenceClassifier, tokens: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of documents classified rightly."""
    model.eval()
    right = (model(tokens, mask=mask).argmax(dim=1) == labels).float().mean().item()
    model.train()
    return right


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--length", type=int, default=1500, help="words of the longest document")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    rng = random.Random(0)
    config = sq.FastformerConfig(dim=32, depth=1, heads=2, causal=False)
    model = sq.SequenceClassifier(config, vocab_size=VOCABULARY, num_classes=len(SUBJECTS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    test = make_batch(rng, 100, options.length)
    before = accuracy(model, *test)
    for _ in range(options.steps):
        tokens, mask, labels = make_batch(rng, 16, options.length)
        loss = model.loss(tokens, labels, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = accuracy(model, *test)
    print(f"accuracy on 100 new documents: {before:.0%} before, {after:.0%} after {options.steps} steps")

    document = test[0][:1, : int(test[1][0].sum())]
    with torch.no_grad():
        padding = (model(document) - model.eval()(test[0][:1], mask=test[1][:1])).abs().max().item()
    print(f"largest change of a logit by padding {document.shape[1]} words to {options.length}: {padding:.1e}")
    return {"before": before, "after": after, "padding": padding}


if __name__ == "__main__":
    main()
