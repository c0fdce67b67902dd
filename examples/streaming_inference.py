"""Read an endless source of bytes in constant memory, and notice what is odd in it.

A thread writes log lines to a socket in pieces of 1 to 40 bytes, cut anywhere; one line is corrupted. A small Performer, trained on such
lines a moment before, reads each piece as it comes: its state is all that it keeps, and each byte gets a score, the bits by which it
surprised the model. Prints the size of the state, the line with the highest mean score, and whether it is the corrupted one.

On two cores: 12 seconds; 7,586 bytes read with a state of 22,816 bytes, ordinary lines at 0.42 bits per byte, the corrupted one at 5.62.
"""

import argparse
import random
import socket
import threading

import torch

import subquadratic as sq


def make_line(rng: random.Random) -> bytes:
    """One line as a web server might write it."""
    page = rng.choice(("GET /index", "GET /about", "GET /search", "PUT /login"))
    return f"{page}.html {rng.choice((200, 304, 404))} {rng.randrange(10, 99)}ms\n".encode()


def train(steps: int, rng: random.Random) -> sq.LanguageModel:
    """A causal byte model of such lines."""
    torch.manual_seed(0)
    model = sq.LanguageModel(sq.PerformerConfig(dim=32, depth=2, heads=2, local_heads=1, local_window=32, token_shift=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model.loss(torch.tensor([list(b"".join(make_line(rng) for _ in range(8))[:128]) for _ in range(16)]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def send(target: socket.socket, lines: list[bytes], rng: random.Random) -> None:
    """All lines, in pieces that end anywhere."""
    text = b"".join(lines)
    with target:
        while text:
            text = text[target.send(text[: rng.randint(1, 40)]) :]


@torch.no_grad()
def scores(model: sq.LanguageModel, source: socket.socket) -> tuple[list[float], set[int]]:
    """Bits of surprise of every byte that ``source`` gives, and the sizes that the state had."""
    state, expected, bits, sizes = model.init_state(1), torch.zeros(1, 256), [], set()
    while piece := source.recv(64):
        logits, state = model.extend(torch.tensor([list(piece)]), state)
        predictions, expected = torch.cat((expected, logits[0, :-1])), logits[0, -1:]  # of each byte, from all before it
        bits += (torch.nn.functional.cross_entropy(predictions, torch.tensor(list(piece)), reduction="none") / 0.6931).tolist()
        sizes.add(state.nbytes())
    return bits, sizes


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Train, stream and report; what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    steps, rng = parser.parse_args(argv).steps, random.Random(0)
    model, lines = train(steps, rng), [make_line(rng) for _ in range(300)]
    odd = rng.randrange(len(lines) // 2, len(lines))
    lines[odd] = lines[odd].replace(b".html", b"/../../etc")
    ours, theirs = socket.socketpair()
    threading.Thread(target=send, args=(theirs, lines, rng)).start()
    bits, sizes = scores(model, ours)
    means = [part.mean().item() for part in torch.tensor(bits).split([len(line) for line in lines])]
    found = max(range(len(means)), key=means.__getitem__)
    print(f"{len(bits):,} bytes read; state of {', '.join(f'{size:,}' for size in sorted(sizes))} bytes throughout")
    print(f"median line {sorted(means)[len(means) // 2]:.2f} bits per byte; highest {means[found]:.2f}: line {found}, {lines[found]!r}")
    print(f"the corrupted one: line {odd}")
    return {"sizes": sizes, "found": found, "odd": odd}


if __name__ == "__main__":
    main()
