"""Sampling by definition, and the decoding loop against recomputing everything for each token."""

from typing import Any

import pytest
import torch
from torch import Tensor

import subquadratic as sq
from subquadratic.generation import keep_top_k, keep_top_p, sample

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}
CONFIGS = [
    sq.PerformerConfig(**SMALL, token_shift=True),
    sq.LinformerConfig(**SMALL, max_length=40, slots=4),
    sq.FastformerConfig(**SMALL),
    sq.FeedbackTransformerConfig(**SMALL, memory_length=5),
    sq.PerceiverARConfig(**SMALL, latents=6),
    sq.TransformerConfig(**SMALL),
]


def model(config: sq.BackboneConfig, vocabulary: int = 11) -> sq.LanguageModel:
    torch.manual_seed(0)
    made = sq.LanguageModel(config, vocab_size=vocabulary).eval()
    with torch.no_grad():
        made.head.weight.mul_(50)  # an opinionated model
    return made


def slow_greedy(net: sq.LanguageModel, prompt: Tensor, count: int) -> Tensor:
    for _ in range(count):
        prompt = torch.cat((prompt, net(prompt)[:, -1:].argmax(dim=-1)), dim=1)
    return prompt


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_greedy_equals_recomputing_everything(config: sq.BackboneConfig) -> None:
    net, prompt = model(config), torch.randint(0, 11, (3, 7))
    assert torch.equal(net.generate(prompt, max_new_tokens=12, temperature=0.0), slow_greedy(net, prompt, 12))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_left_padded_prompts_continue_as_if_alone(config: sq.BackboneConfig) -> None:
    net, prompt = model(config), torch.randint(0, 11, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :4] = False
    together = net.generate(prompt, mask=mask, max_new_tokens=6, temperature=0.0)
    alone = net.generate(prompt[:1, 4:], max_new_tokens=6, temperature=0.0)
    assert torch.equal(together[0, 4:], alone[0])


def test_streaming_gives_the_same_tokens_and_any_prompt_length() -> None:
    net, prompt = model(CONFIGS[0]), torch.randint(0, 11, (2, 1))
    options = {"max_new_tokens": 9, "temperature": 1.3, "top_k": 7, "top_p": 0.95}
    whole = net.generate(prompt, generator=torch.Generator().manual_seed(4), **options)
    steps = list(net.stream(prompt, generator=torch.Generator().manual_seed(4), **options))
    assert torch.equal(torch.stack(steps, dim=1), whole[:, 1:])


def test_the_same_seed_the_same_text() -> None:
    net, prompt = model(CONFIGS[0]), torch.randint(0, 11, (1, 3))
    first, second = (net.generate(prompt, max_new_tokens=20, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_row_that_ended_is_padded_and_the_prompt_may_hold_the_end() -> None:
    net = model(CONFIGS[0])
    prompt = torch.tensor([[3, 5], [3, 7]])
    free = net.generate(prompt, max_new_tokens=10, temperature=0.0)
    end = int(free[0, 4])
    ended = net.generate(prompt, max_new_tokens=10, temperature=0.0, eos_token=end, pad_token=9)
    for row in range(2):
        new = free[row, 2:].tolist()
        kept = new[: new.index(end) + 1] if end in new else new
        assert ended[row, 2 : 2 + len(kept)].tolist() == kept
        assert set(ended[row, 2 + len(kept) :].tolist()) <= {9}
    with_end = net.generate(torch.tensor([[end, 5]]), max_new_tokens=4, temperature=0.0)
    assert torch.equal(net.generate(torch.tensor([[end, 5]]), max_new_tokens=4, temperature=0.0, eos_token=10), with_end)


def test_modes_are_restored_even_after_an_error_or_an_early_stop() -> None:
    net = model(CONFIGS[0]).train()
    steps = net.stream(torch.randint(0, 11, (1, 3)), max_new_tokens=5)
    next(steps)
    assert not net.training and torch.is_grad_enabled()
    steps.close()
    assert net.training
    with pytest.raises(ValueError, match="tokens must be at least 0"):
        net.generate(torch.full((1, 3), 99), max_new_tokens=2)
    assert net.training


def test_a_vocabulary_of_two() -> None:
    net = model(CONFIGS[0], vocabulary=2)
    assert net.generate(torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=5, top_k=5, top_p=0.5).max() <= 1


def test_top_k_keeps_k() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [0.0, 0.0, 1.0, -1.0]])
    assert (keep_top_k(logits, 2) > -torch.inf).tolist() == [[False, True, True, False], [True, True, True, False]]  # a tie stays
    assert torch.equal(keep_top_k(logits, 9), logits)


def test_top_p_keeps_the_smallest_nucleus() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.8, 2), (0.81, 3), (1.0, 4), (1e-9, 1)):
        assert (keep_top_p(logits, p) > -torch.inf).sum() == kept, p


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log().repeat(20_000, 1)
    drawn = sample(logits, generator=torch.Generator().manual_seed(0))
    frequencies = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(frequencies, torch.tensor([0.6, 0.3, 0.1]), atol=0.015, rtol=0)
    sharper = torch.bincount(sample(logits, temperature=0.5, generator=torch.Generator().manual_seed(0)), minlength=3) / 20_000
    expected = torch.tensor([0.36, 0.09, 0.01]) / 0.46
    torch.testing.assert_close(sharper, expected, atol=0.015, rtol=0)
