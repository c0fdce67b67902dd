"""How well a model predicts a text of any length.

| `reset`       | what a prediction sees                                              | for                                            |
|---------------|---------------------------------------------------------------------|------------------------------------------------|
| `"documents"` | its document so far, through the streaming state                    | causal models with a state of constant size    |
| `"never"`     | everything so far, through the streaming state                      | likewise                                       |
| `"windows"`   | its window of `context` tokens: exactly what validation in training scores | every model; the only way for masked ones |

Each way predicts every token of the text but the first exactly once, for every model (`windows.py`), so that scores are compared over
the same tokens. With a state, a text of any length takes the memory of one piece of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..costs.cost import state_is_constant
from ..heads.language_model import LanguageModel
from ..layers.modes import evaluating
from .tally import Tally, TextScore
from .text import Text
from .windows import TextWindows, is_causal, reach, scored_losses, stacked

LOGITS_AT_ONCE = 1 << 22
PIECES = (16, 2048)  # the shortest and the longest piece that is read at a time

Reset = Literal["documents", "never", "windows"]
Progress = Callable[[int, int], None]  # tokens read, and how many there are


@torch.no_grad()
def evaluate_text(
    model: Any,
    text: Text,
    *,
    context: int | None = None,
    usual_context: int = 512,
    reset: Reset | None = None,
    start_token: int | None = None,
    sizes: NDArray[np.int64] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> TextScore:
    """The score of a language model on a text.

    Args:
        model: a LanguageModel, or a causal language model of a published package (windows only); in eval mode while this lasts.
        text: the tokens.
        context: length of the windows; None: `usual_context`, or less where the model or the text does not take that much.
        reset: see the table above. None: "windows" where `context` is given or the model needs them, else "documents".
        start_token: what stands before each document (in windows: before the text, if its beginning is there), so that the first token
            of the text is predicted too. None: that one is not, and before a document stands the last token of the one before.
        sizes: (V,) bytes that each token stands for, for bits per byte; None: the tokens are no text.
        batch_size: windows, or short documents, side by side.
        seed: of what is hidden together, for masked models.
        progress: hears how far it is.

    Raises:
        ValueError: too little text, tokens or windows that the model does not take, a state asked of a model that has none of
            constant size, or a loss that is NaN.
    """
    started, tally, state_bytes = time.monotonic(), Tally(sizes), None
    with evaluating(model):
        chosen = choose_reset(model, context=context, reset=reset)
        if chosen == "windows":
            if len(text) < 2:
                raise ValueError(f"data: the text is too short to predict anything: it has {len(text)} tokens")
            text = text if start_token is None else text.after(start_token)
            context = min(_windows_length(model, context, usual_context), len(text))
            _windowed(model, text, tally, context=context, batch_size=batch_size, seed=seed, progress=progress)
            hidden = "" if is_causal(model) else ", each token hidden once"
            how = f"windows of {context:,} tokens{hidden}"
        else:
            state_bytes = _streamed(model, text, tally, chosen, start_token=start_token, batch_size=batch_size, progress=progress)
            how = "state carried through each document" if chosen == "documents" else "state carried through the whole text"
    return tally.score(seconds=time.monotonic() - started, how=how, state_bytes=state_bytes)


def choose_reset(model: Any, *, context: int | None, reset: Reset | None) -> Reset:
    """What `evaluate_text` does where `reset` is None.

    Raises:
        ValueError: the model cannot do what is asked.
    """
    if not hasattr(model, "config") and not is_causal(model):
        raise ValueError(f"run: this {type(model).__name__} of a published package is bidirectional: no token can be hidden from it")
    if reset == "windows" or (reset is None and context is not None):
        return "windows"
    constant = isinstance(model, LanguageModel) and state_is_constant(model)
    if reset is None:
        return "documents" if constant else "windows"
    if not constant:
        raise ValueError(f"reset must be 'windows' for this model, got {reset!r}: it has no state of constant size to carry along a text")
    if context is not None:
        raise ValueError(f"context is for reset='windows', got {reset!r}: a state is not cut into windows")
    return reset


def _windows_length(model: Any, context: int | None, usual: int) -> int:
    limit = getattr(model, "max_length", None) or getattr(model, "max_seq_len", None)
    if context is None:
        # Of a published Perceiver AR, whose prefix is never predicted, only long windows predict many tokens.
        context = usual if limit is None else limit if hasattr(model, "cross_attn_seq_len") else min(usual, limit)
    elif limit is not None and context > limit + is_causal(model):  # the last token of a causal model's window is not read
        raise ValueError(f"context must be at most {limit}, what the model takes, got {context}")
    return context


def _windowed(
    model: Any, text: Text, tally: Tally, *, context: int, batch_size: int, seed: int, progress: Progress | None
) -> None:
    device = next(model.parameters()).device
    windows = TextWindows(text, length=context, advance=reach(model, context), masked=not is_causal(model), seed=seed)
    for first in range(0, len(windows), batch_size):
        items = [windows[i] for i in range(first, min(first + batch_size, len(windows)))]
        batch = {name: tensor.to(device) for name, tensor in stacked(items).items()}
        _check_known(model, batch["tokens"])
        nats, right, targets, places = scored_losses(model, **batch)
        tally.add(nats, right, targets, places.cpu().numpy())
        if progress is not None:
            progress(len(text) * min(first + batch_size, len(windows)) // len(windows), len(text))


def _streamed(
    model: Any, text: Text, tally: Tally, reset: str, *, start_token: int | None, batch_size: int, progress: Progress | None
) -> int:
    """The largest state, in bytes."""
    piece = min(max(LOGITS_AT_ONCE // model.vocab_size, PIECES[0]), PIECES[1])
    largest = int(model.init_state(1).nbytes())
    for documents in _batches(text, reset, piece, batch_size):
        if len(documents) == 1:
            largest = max(largest, _long(model, text, tally, documents[0], piece, start_token, progress))
        else:
            _short(model, text, tally, documents, start_token)
        if progress is not None:
            progress(documents[-1][1], len(text))
    return largest


def _batches(text: Text, reset: str, piece: int, batch_size: int) -> Iterator[list[tuple[int, int, bool]]]:
    """Documents, those that are shorter than a piece several at a time."""
    if reset == "never":
        yield [(0, len(text), bool(len(text.starts)) and int(text.starts[0]) == 0)]
        return
    waiting: list[tuple[int, int, bool]] = []
    for document in text.documents():
        if document[1] - document[0] >= piece:
            if waiting:
                yield waiting
                waiting = []
            yield [document]
        else:
            waiting.append(document)
            if len(waiting) == batch_size:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _long(
    model: Any, text: Text, tally: Tally, document: tuple[int, int, bool], piece: int, start_token: int | None, progress: Progress | None
) -> int:
    """One document, piece by piece; the bytes of its state."""
    place, stop, _ = document
    device = next(model.parameters()).device
    state = model.init_state(1)
    before = 1
    tokens = _lead(model, text, document, start_token)
    if not len(tokens):
        tokens, place = _read(model, text, place, place + 1), place + 1
    while place < stop:
        # Each token is read once, and predicted from all before it: a piece ends one token before its last target.
        following = _read(model, text, place, min(place + piece, stop))
        inputs = torch.cat((tokens, following[:-1]))
        logits, state = model.extend(inputs[None].to(device), state)
        nats, right = _losses(logits.float(), following[None].to(device))
        tally.add(nats, right, following, before + np.arange(len(following)))
        before, place, tokens = before + len(following), place + len(following), following[-1:]
        if progress is not None:
            progress(place, len(text))
    return int(state.nbytes())


def _short(model: Any, text: Text, tally: Tally, documents: list[tuple[int, int, bool]], start_token: int | None) -> None:
    """Short documents side by side, padded."""
    device = next(model.parameters()).device
    rows = []
    for document in documents:
        lead = _lead(model, text, document, start_token)
        rows.append(torch.cat([lead, _read(model, text, *document[:2])]))
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return
    tokens = pad_sequence(rows, batch_first=True)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    nats, right, targets = model.token_losses(tokens.to(device), mask.to(device))
    tally.add(nats, right, targets, np.concatenate([np.arange(1, len(row)) for row in rows]))


def _lead(model: Any, text: Text, document: tuple[int, int, bool], start_token: int | None) -> Tensor:
    """What the first token of a document is predicted from: (1,), or nothing, (0,), at the beginning of the text."""
    start, _, beginning = document
    if beginning and start_token is not None:
        return torch.tensor([start_token])
    return _read(model, text, start - 1, start) if start else torch.empty(0, dtype=torch.int64)


def _read(model: Any, text: Text, start: int, stop: int) -> Tensor:
    """Tokens of the text.

    Raises:
        ValueError: one that the model does not know.
    """
    tokens = text.read(start, stop)
    _check_known(model, tokens)
    return tokens


def _check_known(model: Any, tokens: Tensor) -> None:
    """Raises ValueError for a token that the model does not know, also for one that it would only predict."""
    known = getattr(model, "vocab_size", None)
    if known is not None and len(tokens):
        low, high = (int(value) for value in tokens.aminmax())
        if low < 0 or high >= known:
            raise ValueError(f"data: tokens must be at least 0 and less than vocab_size={known}, what the model knows, got {low} to {high}")


def _losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, V) and (B, N) -> (B N,) nats, and whether the most likely was right."""
    logits, targets = logits.flatten(0, 1), targets.flatten()
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets


@torch.no_grad()
def evaluate_items(model: Any, batches: Iterable[dict[str, Tensor]], *, progress: Callable[[int], None] | None = None) -> TextScore:
    """The score of a language model on items of which only some tokens can be known, all of which are predicted.

    Args:
        model: in eval mode while this lasts.
        batches: of `tokens` (B, N) and `scored` (B, N) bool, the tokens that count (those hidden from a masked model).
        progress: hears how many items are done.
    """
    started, device = time.monotonic(), next(model.parameters()).device
    tally, done = Tally(), 0
    with evaluating(model):
        for batch in batches:
            tokens, scored = batch["tokens"].to(device), batch["scored"].to(device)
            nats, right, targets, places = scored_losses(model, tokens, scored, masked=None if is_causal(model) else scored)
            tally.add(nats, right, targets, places.cpu().numpy())
            done += len(tokens)
            if progress is not None:
                progress(done)
    return tally.score(seconds=time.monotonic() - started, how="tokens that can be known")
