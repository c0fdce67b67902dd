"""Truncated back-propagation with a Feedback Transformer: gradients stay in a window, memory does not.

Each stream begins with a secret number and then asks questions: a digit q, answered by (q + secret) mod 8. The stream is trained window by
window; the state is carried on and detached, so a training step costs the same however long the stream is. Prints how often the first
answer in a later window is right: with the memory carried over from the window before, and with an empty one, which has to guess (1 in 8).

On two cores: 28 seconds; 91 % with the memory carried over, 13 % without.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

import subquadratic as sq

DIGITS, WINDOW, WINDOWS = 8, 12, 4  # tokens: digits 0-7, secrets 8-15


def make_stream(rows: int, generator: torch.Generator) -> Tensor:
    """(rows, WINDOW * WINDOWS): a secret, its repetition, then questions and answers in turn."""
    secret = torch.randint(DIGITS, (rows, 1), generator=generator)
    questions = torch.randint(DIGITS, (rows, WINDOW * WINDOWS // 2 - 1), generator=generator)
    pairs = torch.stack((questions, (questions + secret) % DIGITS), dim=2).flatten(1)
    return torch.cat((secret + DIGITS, secret + DIGITS, pairs), dim=1)


def answer_loss(logits: Tensor, window: Tensor) -> Tensor:
    """Cross-entropy of the answers: the tokens at odd places, predicted from the questions before them."""
    return F.cross_entropy(logits[:, 0:-1:2].flatten(0, 1), window[:, 1::2].flatten())


@torch.no_grad()
def first_answers(model: sq.LanguageModel, stream: Tensor, *, carry: bool) -> float:
    """How often the first answer of every window but the first is right."""
    state, right = model.init_state(len(stream)), []
    for index, window in enumerate(stream.split(WINDOW, dim=1)):
        logits, state = model.extend(window, state if carry else model.init_state(len(stream)))
        if index > 0:
            right.append((logits[:, 0].argmax(dim=1) == window[:, 1]).float().mean())
    return torch.stack(right).mean().item()


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="streams of four windows; one optimizer step a window")
    steps = parser.parse_args(argv).steps
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = sq.FeedbackTransformerConfig(dim=48, depth=2, heads=2, memory_length=24)
    model = sq.LanguageModel(config, vocab_size=2 * DIGITS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        stream = make_stream(64, generator)
        state = model.init_state(len(stream))
        for window in stream.split(WINDOW, dim=1):
            logits, state = model.extend(window, state.detach())  # the values of the memory, without their history
            optimizer.zero_grad()
            answer_loss(logits, window).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    test = make_stream(256, generator)
    carried, forgotten = (first_answers(model, test, carry=carry) for carry in (True, False))
    print(f"first answer of a window right: {carried:.0%} with the memory carried over, {forgotten:.0%} without, after {steps} streams")
    return {"carried": carried, "forgotten": forgotten}


if __name__ == "__main__":
    main()
