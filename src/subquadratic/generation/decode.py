"""The decoding loop: read the prompt once, then one token at a time through the model's state.

Works on anything with ``init_state`` and ``extend(tokens, state, mask=..., last_only=True) -> (logits, state)``.

Steps of a model whose state does not grow are all alike. On a CUDA device they are replayed as a graph, from the third token on: starting
some hundred kernels one by one takes longer than they do. Elsewhere they are recorded, from the fifth token on: the Python between the
operations takes as long as these. Both belong to the model: the next text begins with them.

Axes: B rows of the prompt, S samples of each, N length of the prompt, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import check_mask, require, require_positive, whole_number
from ..core.scalars import as_number
from ..core.state import State
from ..layers.modes import evaluating
from .recorded_steps import Reached, Steps
from .repetition import Recent
from .sampling import penalise, sample
from .sampling_options import Sampling
from .stopping import Decoder, Ends, EndTokens, check_ends

PIECE = 8192  # tokens of a prompt that go through the model together


class Decoding:
    """Rows that a model goes on with: ``read`` text, ``choose`` tokens, in any order, the first call being ``read``.

    The model is used as it is: put it into eval mode before. Between calls there is nothing but the state, so that a
    call that an exception cuts short leaves everything as it was.

    Args:
        model: causal.
        sampling: how tokens are chosen.
        state: what the model has read before; None: nothing. The repetition penalty knows nothing of it.
        generator: source of randomness, on the model's device.
        piece: read longer texts this many tokens at a time, in the memory that these need.
    """

    def __init__(
        self,
        model: Any,
        sampling: Sampling | None = None,
        *,
        state: State | None = None,
        generator: torch.Generator | None = None,
        piece: int = PIECE,
    ):
        require_positive(piece=piece)
        self.model, self.sampling, self.generator, self.piece = model, sampling or Sampling(), generator, piece
        self._reached, self._steps = Reached(state), Steps(model)
        self._logits: Tensor | None = None  # (B, V) of what comes next
        self._unread: Tensor | None = None  # (B, 1) the token chosen last, which the model reads when another is wanted
        self._recent: Recent | None = None
        self._banned: Tensor | None = None  # what of it the model knows, on its device
        self._room: tuple[Reached, int] | None = None  # how many tokens the model can read after what

    @torch.no_grad()
    def read(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        """The next tokens (B, N) of each row, after the chosen ones; mask (B, N) bool, True = real token, one at least per row."""
        if self._unread is not None:
            tokens = torch.cat((self._unread, tokens), dim=1)
            mask = None if mask is None else torch.cat((torch.ones_like(self._unread, dtype=torch.bool), mask), dim=1)
        state = _first_state(self.model, tokens) if self.state is None else self.state
        logits: Tensor | None = None
        for start in range(0, tokens.shape[1], self.piece):
            real = None if mask is None else mask[:, start : start + self.piece]
            found, state = self.model.extend(tokens[:, start : start + self.piece], state, mask=real, last_only=True)
            last = found[:, -1]
            if real is not None and logits is not None:  # a row whose piece is all padding keeps the logits of its last real token
                last = torch.where(real.any(dim=1)[:, None], last, logits)
            logits = last
        assert logits is not None
        if self.sampling.repetition_penalty != 1:
            if self._recent is None:
                self._recent = Recent(len(tokens), logits.shape[1], window=self.sampling.repetition_window, device=logits.device)
            new = tokens if self._unread is None else tokens[:, 1:]
            self._recent.add(new, None if mask is None else mask[:, -new.shape[1] :])
        self.state, self._logits, self._unread = state, logits, None

    def repeat(self, count: int) -> None:
        """Each row ``count`` times in a row: several samples of what was read once."""
        assert self.state is not None and self._logits is not None and self._unread is None
        self.state, self._logits = self.state.repeat(count), self._logits.repeat_interleave(count, dim=0)
        if self._recent is not None:
            self._recent.repeat(count)

    @torch.no_grad()
    def choose(self) -> tuple[Tensor, Tensor]:
        """The next token of each row, (B,) int64, and the logarithm of its probability (B,) float32 under the model's own distribution,
        before penalty, temperature and filters."""
        chosen = self._choose()
        assert self._logits is not None
        return chosen, self._logits.float().log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]

    @torch.no_grad()
    def choose_only(self) -> Tensor:
        """``choose`` without the probability, which takes a pass over the vocabulary."""
        return self._choose()

    def _choose(self) -> Tensor:
        if self._unread is not None:
            logits, reached, room = self._step(self._unread)
            self._reached, self._logits, self._unread, self._room = reached, logits, None, room
        assert self._logits is not None, "read before choose"
        logits, options = self._logits, self.sampling
        if self._recent is not None:
            logits = penalise(logits, self._recent.before(), options.repetition_penalty)
        if options.banned:
            logits = self._allowed(logits)
        chosen = sample(
            logits,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            generator=self.generator,
        )
        if self._recent is not None:
            self._recent.add(chosen[:, None])
        self._unread = chosen[:, None]
        return chosen

    def _allowed(self, logits: Tensor) -> Tensor:
        """The logits (B, V), with those of banned tokens at -inf."""
        if self._banned is None:
            known = sorted({token for token in self.sampling.banned if token < logits.shape[-1]})
            require(len(known) < logits.shape[-1], f"banned names all {logits.shape[-1]} tokens that the model knows: none can be chosen")
            self._banned = torch.tensor(known, device=logits.device, dtype=torch.long)
        return logits.index_fill(-1, self._banned, -torch.inf)

    def _step(self, token: Tensor) -> tuple[Tensor, Reached, tuple[Reached, int] | None]:
        """One token of each row (B, 1) -> logits (B, V), what is reached, and the room after that."""
        own, before = self._steps.own, self._reached
        if own is None or not own.applies(self.model, token):
            return *self._steps.read(token, before), None
        known: Any = before.state
        if own.limit is None:
            logits, known = own(token, known)
            return logits, Reached(known), None
        # A graph does not ask how long the sequence is: whoever replays it must know that the model can read on.
        room = self._room[1] if self._room is not None and self._room[0] is before else own.limit - int(known.seen.max())
        if room <= 0:
            return *self._steps.call(token, before), None
        logits, known = own(token, known)
        after = Reached(known)
        return logits, after, (after, room - 1)

    @property
    def state(self) -> State | None:
        """All that the model has read, but for a token that is ``unread``; None: nothing yet. Nothing changes it afterwards."""
        return self._reached.state

    @state.setter
    def state(self, state: State | None) -> None:
        self._reached = Reached(state)

    @property
    def vocab_size(self) -> int | None:
        """V of the logits; None: nothing has been read."""
        return None if self._logits is None else self._logits.shape[-1]

    @property
    def unread(self) -> int:
        """How many tokens were chosen and not read: 0 or 1."""
        return 0 if self._unread is None else 1

    def unchoose(self) -> None:
        """Take the last ``choose`` back: the model does not read that token. For ends of text that are not part of it."""
        self._unread = None


def _first_state(model: Any, tokens: Tensor) -> State:
    """On the device of the weights; on that of the tokens where weights are loaded only while they are needed."""
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return model.init_state(len(tokens), device=tokens.device) if weight is not None and weight.is_meta else model.init_state(len(tokens))


def stream(
    model: nn.Module,
    prompt: Tensor,
    *,
    max_new_tokens: int = 64,
    mask: Tensor | None = None,
    state: State | None = None,
    samples: int = 1,
    eos_token: EndTokens | None = None,
    pad_token: int | None = None,
    stop: Sequence[str | bytes] = (),
    tokenizer: Decoder | None = None,
    return_log_probs: bool = False,
    generator: torch.Generator | None = None,
    piece: int = PIECE,
    **sampling: Any,
) -> Iterator[Any]:
    """New tokens, one step at a time.

    Args:
        model: causal; in eval mode from the first token asked for to the last, or until the iterator is dropped, and each part in its own
            mode again afterwards; with several streams, after the last of them.
        prompt: (B, N) int64, N at least 1, of any length that the model takes.
        max_new_tokens: stop after this many tokens.
        mask: (B, N) bool, True = real token; pad short prompts on the left.
        state: what the model has read before the prompt; None: nothing.
        samples: S, continuations of each prompt; it is read once. Rows i * S to i * S + S - 1 continue prompt i.
        eos_token: an integer, or several in a list, tuple, set, array or tensor: a row that has produced one is finished; generation stops
            when all are.
        pad_token: what finished rows get; None: ``eos_token``, the first of several.
        stop: a row is finished too when the text of its new tokens contains one of these. The tokens that complete it
            are part of the output; ``generate_text`` gives text, cut before it.
        tokenizer: turns tokens into text, for ``stop``.
        return_log_probs: also the logarithm of each token's probability, under the model's own distribution (before penalty,
            temperature and filters); 0 for padding.
        generator: source of randomness, on the device of the model.
        piece: tokens of the prompt that go through the model together: its memory does not grow with the prompt's length,
            where the model's state does not.
        sampling: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``, ``repetition_window``,
            ``banned``; see :class:`Sampling`.

    Yields:
        (B * S,) int64 per step; with ``return_log_probs`` pairs of that and (B * S,) float32.

    Raises:
        ValueError: for options out of range, a prompt of the wrong shape, a row of the prompt without a real token.
        TypeError: for an unknown option.
        NotCausalError: if the model is bidirectional.
    """
    if prompt.dim() != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be (batch, length) with at least one token, got {tuple(prompt.shape)}")
    check_mask(mask, prompt.shape[0], prompt.shape[1])
    require(mask is None or bool(mask.any(dim=1).all()), "mask must leave each row of the prompt a real token: begin empty ones with one")
    require_positive(max_new_tokens=max_new_tokens, samples=samples)
    max_new_tokens, samples, piece = (as_number(number) for number in (max_new_tokens, samples, piece))
    size = getattr(model, "vocab_size", None)
    ends = Ends(prompt.shape[0] * samples, eos_token=eos_token, stop=stop, tokenizer=tokenizer, vocab_size=size)
    pad_token = whole_number("pad_token", ends.tokens[0] if pad_token is None and ends.tokens else pad_token)
    require(
        pad_token is not None or not ends.possible or len(ends.finished) == 1,
        "stop needs pad_token (or eos_token) for several rows: what follows in those that have ended",
    )
    decoding = Decoding(model, Sampling.of(sampling), state=state, generator=generator, piece=piece)
    pad_token = 0 if pad_token is None else pad_token
    return _steps(decoding, prompt, mask, samples, ends, pad_token, max_new_tokens, return_log_probs)


def _steps(
    decoding: Decoding,
    prompt: Tensor,
    mask: Tensor | None,
    samples: int,
    ends: Ends,
    pad_token: int,
    max_new_tokens: int,
    return_log_probs: bool,
) -> Iterator[Any]:
    with evaluating(decoding.model):
        decoding.read(prompt, mask)
        check_ends(ends.tokens, decoding.vocab_size)
        if samples > 1:
            decoding.repeat(samples)
        for _ in range(max_new_tokens):
            chosen, scores = decoding.choose() if return_log_probs else (decoding.choose_only(), None)
            if ends.possible:
                before = ends.finished.to(chosen.device)
                chosen = chosen.masked_fill(before, pad_token)
                scores = None if scores is None else scores.masked_fill(before, 0.0)
                ends.add(chosen)
            yield chosen if scores is None else (chosen, scores)
            if ends.possible and bool(ends.finished.all()):
                return


def generate(model: nn.Module, prompt: Tensor, *, return_log_probs: bool = False, **options: Any) -> Any:
    """The prompt and what follows: (B, N) -> (B * S, N + new); with ``return_log_probs`` also the log-probabilities (B * S, new) of the new
    tokens. Options as in :func:`stream`."""
    steps = list(stream(model, prompt, return_log_probs=return_log_probs, **options))
    tokens = [step[0] for step in steps] if return_log_probs else steps
    prompt = prompt.repeat_interleave(as_number(options.get("samples", 1)), dim=0)
    whole = torch.cat((prompt, torch.stack(tokens, dim=1)), dim=1)
    return (whole, torch.stack([step[1] for step in steps], dim=1)) if return_log_probs else whole
