"""What generation promises for every model: rows do not meet, a prompt is read once and in pieces, log-probabilities are its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

import subquadratic as sq
from subquadratic.data import ByteTokenizer
from subquadratic.generation import Decoding, Sampling

SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
CONFIGS = [
    sq.PerformerConfig(**SMALL, token_shift=True),
    sq.LinformerConfig(**SMALL, max_length=60, slots=4),
    sq.FastformerConfig(**SMALL),
    sq.FeedbackTransformerConfig(**SMALL, memory_length=5),
    sq.PerceiverARConfig(**SMALL, latents=6),
    sq.PerceiverARConfig(**SMALL, latents=6, refill=3),
    sq.TransformerConfig(**SMALL),
    sq.TransformerConfig(**SMALL, window=4),
]
NAMES = ["performer", "linformer", "fastformer", "feedback", "perceiver", "perceiver-refill", "transformer", "window"]
every_model = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


def model(config: sq.BackboneConfig, vocabulary: int = 11, **options: Any) -> sq.LanguageModel:
    torch.manual_seed(0)
    made = sq.LanguageModel(config, vocab_size=vocabulary, **options).eval()
    with torch.no_grad():
        made.head.weight.mul_(50)  # an opinionated model
    return made


@every_model
def test_samples_of_a_greedy_model_are_its_rows_repeated(config: sq.BackboneConfig) -> None:
    net, prompt = model(config), torch.randint(0, 11, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :5] = False
    alone = net.generate(prompt, mask=mask, max_new_tokens=6, temperature=0.0)
    several = net.generate(prompt, mask=mask, max_new_tokens=6, temperature=0.0, samples=3)
    assert torch.equal(several, alone.repeat_interleave(3, dim=0))


@every_model
@pytest.mark.parametrize("padding", ["left", "right", None])
def test_a_prompt_may_be_read_in_pieces(config: sq.BackboneConfig, padding: str | None) -> None:
    net, prompt = model(config), torch.randint(0, 11, (3, 17))
    mask = None
    if padding is not None:
        places, lengths = torch.arange(17), torch.tensor([[17], [12], [2]])
        mask = places >= 17 - lengths if padding == "left" else places < lengths
    whole = net.generate(prompt, mask=mask, max_new_tokens=8, temperature=0.0, repetition_penalty=1.2)
    for piece in (1, 4, 16):
        pieces = net.generate(prompt, mask=mask, max_new_tokens=8, temperature=0.0, repetition_penalty=1.2, piece=piece)
        assert torch.equal(pieces, whole), piece


@every_model
def test_every_row_of_a_padded_batch_is_the_one_alone(config: sq.BackboneConfig) -> None:
    net, prompt = model(config), torch.randint(0, 11, (3, 9))
    lengths = [9, 4, 1]
    mask = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    options = {"max_new_tokens": 7, "temperature": 0.0, "repetition_penalty": 1.3, "repetition_window": 6}
    together, scores = net.generate(prompt, mask=mask, return_log_probs=True, **options)
    for row, length in enumerate(lengths):
        alone, own = net.generate(prompt[row : row + 1, 9 - length :], return_log_probs=True, **options)
        assert torch.equal(together[row, 9:], alone[0, length:])
        torch.testing.assert_close(scores[row], own[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", CONFIGS[:1] + CONFIGS[6:7], ids=["performer", "transformer"])
def test_log_probabilities_are_those_of_the_model_before_any_filter(config: sq.BackboneConfig) -> None:
    net, prompt = model(config), torch.randint(0, 11, (2, 4))
    options = {"temperature": 3.0, "top_k": 5, "repetition_penalty": 1.5, "max_new_tokens": 6}
    whole, scores = net.generate(prompt, samples=2, return_log_probs=True, generator=torch.Generator().manual_seed(0), **options)
    expected = net(whole[:, :-1]).log_softmax(-1)[:, 3:].gather(2, whole[:, 4:, None])[..., 0]
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)
    steps = list(net.stream(prompt, samples=2, return_log_probs=True, generator=torch.Generator().manual_seed(0), **options))
    assert torch.equal(torch.stack([tokens for tokens, _ in steps], dim=1), whole[:, 4:])
    assert torch.equal(torch.stack([score for _, score in steps], dim=1), scores)


def test_padding_after_the_end_has_no_probability() -> None:
    net, prompt = model(CONFIGS[0]), torch.tensor([[3, 5], [4, 6]])
    free = net.generate(prompt, max_new_tokens=10, temperature=0.0)
    new, other = free[:, 2:].tolist()
    end = [token for token in dict.fromkeys(new[:-1]) if token not in other][-1]
    out, scores = net.generate(prompt, max_new_tokens=10, temperature=0.0, eos_token=end, pad_token=99, return_log_probs=True)
    padded = out[:, 2:] == 99
    assert padded.sum(dim=1).tolist() == [9 - new.index(end), 0]
    assert (scores[padded] == 0).all()
    assert (scores[~padded] < 0).all()


@pytest.mark.parametrize("window", [None, 4])
def test_the_penalty_is_that_of_transformers(window: int | None) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    net, out = model(CONFIGS[0]), torch.tensor([[1, 2, 3], [4, 4, 4]])
    prompt, theirs = out, RepetitionPenaltyLogitsProcessor(1.4)
    for _ in range(10):
        recent = out if window is None else out[:, -window:]
        out = torch.cat((out, theirs(recent, net(out)[:, -1]).argmax(-1, keepdim=True)), dim=1)
    options = {"temperature": 0.0, "repetition_penalty": 1.4, "repetition_window": window}
    assert torch.equal(net.generate(prompt, max_new_tokens=10, **options), out)


class Letters(ByteTokenizer):
    """Tokens 0 … 10 are letters."""

    def decode_bytes(self, tokens: Any) -> bytes:
        return bytes(97 + int(token) for token in tokens)


def test_a_stop_text_over_several_tokens_ends_its_row_only() -> None:
    net, prompt = model(CONFIGS[0]), torch.tensor([[3, 5], [3, 7]])
    free = net.generate(prompt, max_new_tokens=12, temperature=0.0)
    text = Letters().decode_bytes(free[0, 2:])
    stop = text[3:6].decode()
    end = text.index(stop.encode()) + 3
    out = net.generate(prompt, max_new_tokens=12, temperature=0.0, stop=["no such", stop], tokenizer=Letters(), pad_token=99)
    assert torch.equal(out[0, : 2 + end], free[0, : 2 + end])
    assert (out[0, 2 + end :] == 99).all()
    other = Letters().decode_bytes(free[1, 2:])
    if stop.encode() not in other:
        assert torch.equal(out[1], free[1])
    single = net.generate(prompt[:1], max_new_tokens=12, temperature=0.0, stop=[stop], tokenizer=Letters())
    assert torch.equal(single[0], free[0, : 2 + end])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ["x"]}, "stop needs tokenizer"),
        ({"stop": "x", "tokenizer": ByteTokenizer()}, "stop must be a list"),
        ({"stop": [""], "tokenizer": ByteTokenizer()}, "at least one character"),
        ({"stop": ["x"], "tokenizer": ByteTokenizer()}, "needs pad_token"),
        ({"samples": 0}, "samples must be an integer of at least 1"),
        ({"piece": 0}, "piece must be an integer of at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ({"mask": torch.tensor([[True, True], [False, False]])}, "leave each row of the prompt a real token"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(CONFIGS[0]).stream(torch.tensor([[1, 2], [3, 4]]), **options)  # the call itself, not the first step


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_tokens_are_never_chosen(temperature: float) -> None:
    net = model(CONFIGS[0])
    prompt, options = torch.tensor([[1, 2]]), {"max_new_tokens": 60, "temperature": temperature}
    banned = [0, *range(3, net.vocab_size), 10**9]  # the model knows fewer
    found = net.generate(prompt, banned=banned, repetition_penalty=1.1, **options)[0, 2:]
    assert set(found.tolist()) <= {1, 2}
    with pytest.raises(ValueError, match="banned names all"):
        net.generate(prompt, banned=range(net.vocab_size), **options)


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="'temprature' for generation; did you mean 'temperature'"):
        model(CONFIGS[0]).generate(torch.tensor([[1]]), temprature=0.5)


def test_a_bounded_model_says_what_fits() -> None:
    net = model(sq.PerformerConfig(**SMALL), max_length=8)
    prompt = torch.zeros(1, 5, dtype=torch.int64)
    assert net.generate(prompt, max_new_tokens=4).shape == (1, 9)  # the last token is never read
    with pytest.raises(ValueError, match=r"max_new_tokens must be at most 4 after a prompt of 5 tokens, since max_length=8, got 5"):
        net.generate(prompt, max_new_tokens=5)
    with pytest.raises(ValueError, match=r"the prompt has 9 tokens, but this model reads at most max_length=8: give it the last 8"):
        net.generate(torch.zeros(1, 9, dtype=torch.int64), max_new_tokens=1)
    with pytest.raises(ValueError, match="at most max_length=60"):
        model(CONFIGS[1]).generate(torch.zeros(1, 61, dtype=torch.int64), max_new_tokens=1)


def pair_model() -> sq.EncoderDecoder:
    torch.manual_seed(0)
    encoder, decoder = sq.TransformerConfig(**SMALL, causal=False), sq.PerformerConfig(**SMALL, cross_attention=True)
    return sq.EncoderDecoder(encoder, decoder, vocab_size=11, max_length=20).eval()


def test_an_encoder_decoder_streams_and_repeats() -> None:
    net = pair_model()
    source, prompt = torch.randint(0, 11, (2, 7)), torch.tensor([[1], [1]])
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 3:] = False
    options = {"source_mask": mask, "max_new_tokens": 5, "temperature": 0.0}
    whole = net.generate(source, prompt, **options)
    slow = prompt
    for _ in range(5):
        slow = torch.cat((slow, net(source, slow, source_mask=mask)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(whole, slow)
    assert torch.equal(torch.stack(list(net.stream(source, prompt, **options)), dim=1), whole[:, 1:])
    assert torch.equal(net.generate(source, prompt, samples=2, **options), whole.repeat_interleave(2, dim=0))
    with pytest.raises(ValueError, match="max_new_tokens must be at most 20"):
        net.generate(source, prompt, max_new_tokens=21)


@every_model
def test_reading_and_choosing_in_turns_is_one_text(config: sq.BackboneConfig) -> None:
    net = model(config)
    first, second = torch.randint(0, 11, (1, 5)), torch.randint(0, 11, (1, 3))
    decoding = Decoding(net, Sampling(temperature=0.0, repetition_penalty=1.2))
    decoding.read(first)
    own = torch.stack([decoding.choose()[0] for _ in range(4)], dim=1)
    decoding.read(second)
    found = torch.stack([decoding.choose()[0] for _ in range(3)], dim=1)
    whole = torch.cat((first, own, second), dim=1)
    expected = net.generate(whole, max_new_tokens=3, temperature=0.0, repetition_penalty=1.2)
    assert torch.equal(found, expected[:, whole.shape[1] :])


def test_an_unchosen_token_is_not_read() -> None:
    net, prompt = model(CONFIGS[0]), torch.tensor([[1, 2]])
    decoding = Decoding(net, Sampling(temperature=0.0))
    decoding.read(prompt)
    first = decoding.choose()[0]
    assert decoding.unread == 1
    decoding.unchoose()
    assert decoding.unread == 0
    assert torch.equal(decoding.choose()[0], first)


class Counting(torch.nn.Module):
    """A model that notes how much it is given at a time."""

    def __init__(self, inner: sq.LanguageModel) -> None:
        super().__init__()
        self.inner, self.lengths = inner, list[tuple[int, int]]()

    def init_state(self, batch_size: int) -> Any:
        return self.inner.init_state(batch_size)

    def extend(self, tokens: Tensor, state: Any, **options: Any) -> Any:
        self.lengths.append(tuple(tokens.shape))
        return self.inner.extend(tokens, state, **options)


def test_the_prompt_is_read_once_for_all_samples_and_never_whole() -> None:
    net = Counting(model(CONFIGS[0]))
    list(sq.generation.stream(net, torch.zeros(1, 10, dtype=torch.int64), samples=3, max_new_tokens=3, piece=4))
    assert net.lengths == [(1, 4), (1, 4), (1, 2), (3, 1), (3, 1)]


def test_a_published_model_reads_its_prompt_at_once() -> None:
    from subquadratic.compat.continuation import Continuation
    from subquadratic.compat.performer_pytorch import PerformerLM

    inner = PerformerLM(num_tokens=11, max_seq_len=8, dim=16, depth=1, heads=2, dim_head=8, causal=True).eval()
    net, calls = Continuation(inner), []
    inner.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[1]))
    prompt = torch.randint(0, 11, (1, 20_000))
    tokens = torch.stack(list(net.stream(prompt, max_new_tokens=3, temperature=0.0, samples=2, repetition_penalty=1.1)), dim=1)
    assert tokens.shape == (2, 3)
    assert torch.equal(tokens[0], tokens[1])
    assert calls == [8, 8, 8]
