"""The twin of perceiver-ar-pytorch beside the published package."""

import copy
import importlib
import pickle
import random

import perceiver_ar_pytorch as published
import pytest
import torch
from perceiver_ar_pytorch.autoregressive_wrapper import AutoregressiveWrapper as PublishedWrapper
from torch import Tensor
from torch.nn import functional as F

from subquadratic.compat.perceiver_ar_pytorch import PerceiverAR
from subquadratic.compat.perceiver_ar_pytorch.autoregressive_wrapper import AutoregressiveWrapper

SMALL = {"num_tokens": 20, "dim": 16, "depth": 2, "max_seq_len": 24, "cross_attn_seq_len": 8, "dim_head": 32, "heads": 2}


def twins(**options: object) -> tuple[torch.nn.Module, PerceiverAR]:
    """The published model and ours with the same weights, in training mode."""
    theirs, ours = published.PerceiverAR(**{**SMALL, **options}), PerceiverAR(**{**SMALL, **options})
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def tokens(batch: int, length: int, *, low: int = 0) -> Tensor:
    return torch.randint(low, 20, (batch, length))


def distance(reference: Tensor, value: Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    return ((reference - value).square().mean().sqrt() / reference.square().mean().sqrt().clamp_min(1e-12)).item()


def same(theirs: torch.nn.Module, ours: torch.nn.Module, x: Tensor, **arguments: object) -> None:
    """Outputs and every gradient agree to 1e-5."""
    results = []
    for model in (theirs, ours):
        torch.manual_seed(7)
        model.zero_grad()
        y = model(x, **arguments)
        loss = y if y.dim() == 0 else F.cross_entropy(y.transpose(1, 2), torch.arange(y.shape[1]).expand(y.shape[0], -1) % 20)
        loss.backward()
        results.append((y.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    (expected, gradients), (y, ours_gradients) = results
    assert distance(expected, y) < 1e-5
    top = max(gradient.square().mean().sqrt().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        if gradient.square().mean().sqrt().item() > 1e-5 * top:
            assert distance(gradient, ours_gradients[name]) < 1e-5, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dim_head": 64, "heads": 1, "ff_mult": 2},
        {"dim_head": 128, "perceive_depth": 2},
        {"heads": 3, "perceive_max_heads_process": 1, "depth": 1, "ff_mult": 1.5},
        {"cross_attn_seq_len": 0},
        {"cross_attn_dropout": 0.4, "perceive_depth": 2},
    ],
)
@pytest.mark.parametrize("mask", [None, "prefix", "beyond", "short"])
@pytest.mark.parametrize("length", [9, 15, 24])
def test_outputs_and_gradients_are_the_published_ones(options: dict[str, object], mask: str | None, length: int) -> None:
    theirs, ours = twins(**options)
    prefix = ours.cross_attn_seq_len
    width = {"prefix": prefix, "beyond": prefix + 1, "short": prefix // 2}.get(mask or "", 0)
    if mask is not None and options.get("cross_attn_dropout"):
        width = prefix  # the published package takes no other there
    arguments = {} if mask is None else {"prefix_mask": torch.rand(2, width) < 0.6}
    if mask == "beyond" and width == prefix + 1:
        arguments["prefix_mask"][:, -1] = True
    same(theirs, ours, tokens(2, length), **arguments)


def test_the_loss_is_the_published_one() -> None:
    theirs, ours = twins()
    x = tokens(3, 18)
    same(theirs, ours, x, labels=tokens(3, 18))
    same(PublishedWrapper(theirs), AutoregressiveWrapper(ours), x)


def test_the_label_that_does_not_count_can_be_chosen() -> None:
    _, ours = twins()
    x, labels = tokens(2, 12), torch.zeros(2, 12, dtype=torch.long)
    assert ours(x, labels=labels).item() == 0.0  # the published package: NaN
    ours(x, labels=labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters())
    expected = F.cross_entropy(ours(x).transpose(1, 2), labels[:, 8:])
    torch.testing.assert_close(ours(x, labels=labels, ignore_index=-100), expected)
    torch.testing.assert_close(
        AutoregressiveWrapper(ours)(F.pad(x, (0, 1)), ignore_index=-100), ours(x, labels=F.pad(x[:, 1:], (0, 1)), ignore_index=-100)
    )


@pytest.mark.parametrize("dim_head", [1, 7, 8, 16, 31])
def test_narrow_heads_work(dim_head: int) -> None:
    theirs, ours = twins(dim_head=dim_head)
    with pytest.raises(RuntimeError):
        theirs(tokens(2, 12))
    assert ours(tokens(2, 12)).shape == (2, 4, 20)


@pytest.mark.parametrize("length", [1, 2, 8])
def test_short_input_gives_its_last_position(length: int) -> None:
    _, ours = twins()
    x = tokens(2, length)
    assert ours(x).shape == (2, 1, 20) and ours(x, labels=x).isfinite()
    assert AutoregressiveWrapper(ours).generate(x, 3).shape == (2, 3)


def test_the_mask_hides_the_prefix_and_the_future_stays_hidden() -> None:
    ours = twins()[1].eval()
    x, mask = tokens(2, 16), torch.ones(2, 8, dtype=torch.bool)
    mask[0, 2:5] = False
    changed = x.clone()
    changed[0, 2:5] = 7
    assert torch.equal(ours(x, prefix_mask=mask), ours(changed, prefix_mask=mask))
    later = x.clone()
    later[:, 12:] = 3
    assert torch.equal(ours(x)[:, :4], ours(later)[:, :4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x, prefix_mask=mask).isfinite().all()  # the published package overflows


def test_dropout_reaches_every_layer() -> None:
    _, ours = twins(dropout=0.3)
    assert {module.p for module in ours.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}
    assert not torch.equal(ours(tokens(1, 12)), ours(tokens(1, 12)))


# --- samples ----------------------------------------------------------------------------------------------------------


class Counter(torch.nn.Module):
    """Stands in for a model: the next token is the last one plus one."""

    max_seq_len = 6

    def __init__(self, vocabulary: int):
        super().__init__()
        self.to_logits = torch.nn.Linear(1, vocabulary, bias=False)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor, prefix_mask: Tensor | None = None) -> Tensor:
        assert x.shape[1] <= self.max_seq_len
        if prefix_mask is not None:
            self.masks.append(prefix_mask)
        vocabulary = self.to_logits.out_features
        return 50.0 * F.one_hot((x + 1) % vocabulary, vocabulary).float()


@pytest.mark.parametrize("vocabulary", [2, 9, 50])
def test_samples_follow_the_model_for_any_vocabulary(vocabulary: int) -> None:
    wrapper = AutoregressiveWrapper(Counter(vocabulary))  # type: ignore[arg-type]
    for options in ({}, {"filter_thres": 1.0}, {"temperature": 0.0}, {"filter_thres": 0.0}):
        out = wrapper.generate(torch.zeros(2, 1, dtype=torch.long), 7, **options)
        assert out.tolist() == [[(i + 1) % vocabulary for i in range(7)]] * 2


def test_rows_end_on_their_own_and_the_prompt_does_not_end_them() -> None:
    wrapper = AutoregressiveWrapper(Counter(20), pad_value=19)  # type: ignore[arg-type]
    prompt = torch.tensor([[5, 1], [5, 3]])
    assert wrapper.generate(prompt, 9, eos_token=5).tolist() == [[2, 3, 4, 5], [4, 5, 19, 19]]
    assert wrapper.generate(prompt, 3, eos_token=5).tolist() == [[2, 3, 4], [4, 5, 19]]


def test_the_prefix_mask_moves_with_the_window() -> None:
    net = Counter(20)
    prompt, mask = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[True, False]])
    AutoregressiveWrapper(net).generate(prompt, 3, prefix_mask=mask)  # type: ignore[arg-type]
    assert [seen.tolist()[0] for seen in net.masks] == [
        [True, False, True, True, True],
        [True, False, True, True, True, True],
        [False, True, True, True, True, True],
    ]


def test_greedy_samples_are_the_published_ones() -> None:
    theirs, ours = twins()
    prompt = tokens(2, 10)
    expected = PublishedWrapper(theirs).generate(prompt, 12, filter_thres=0.93)  # keeps one token of 20
    ours.train()
    assert torch.equal(AutoregressiveWrapper(ours).generate(prompt, 12, filter_thres=0.93), expected)
    assert torch.equal(AutoregressiveWrapper(ours).generate(prompt, 12, temperature=0.0), expected)
    assert ours.training
    drawn = [AutoregressiveWrapper(ours).generate(prompt, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="cross_attn_seq_len must be"):
        PerceiverAR(**{**SMALL, "cross_attn_seq_len": 24})
    with pytest.raises(TypeError):
        PerceiverAR(**SMALL, head=3)
    ours = PerceiverAR(**SMALL)
    with pytest.raises(ValueError, match="at most max_seq_len=24 tokens, got 25"):
        ours(tokens(1, 25))
    with pytest.raises(ValueError, match="prefix_mask must be bool"):
        ours(tokens(1, 12), prefix_mask=torch.ones(1, 8))
    with pytest.raises(ValueError, match="labels must be"):
        ours(tokens(1, 12), labels=tokens(1, 11))
    with pytest.raises(ValueError, match="prefix_mask must be no longer"):
        AutoregressiveWrapper(ours).generate(tokens(1, 4), 2, prefix_mask=torch.ones(1, 5, dtype=torch.bool))


def test_copies_and_module_paths() -> None:
    ours, x = PerceiverAR(**SMALL).eval(), tokens(1, 12)
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), ours(x))
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))
    for path, name in [("", "PerceiverAR"), (".perceiver_ar_pytorch", "PerceiverAR"), (".autoregressive_wrapper", "AutoregressiveWrapper")]:
        assert hasattr(importlib.import_module("perceiver_ar_pytorch" + path), name)
        assert hasattr(importlib.import_module("subquadratic.compat.perceiver_ar_pytorch" + path), name)


def test_random_options_agree() -> None:
    draw = random.Random(11)
    for _ in range(8):
        prefix = draw.choice([1, 5, 20])
        options = {
            "cross_attn_seq_len": prefix,
            "dim_head": draw.choice([32, 40, 80]),
            "heads": draw.choice([1, 3]),
            "depth": draw.choice([1, 3]),
        }
        theirs, ours = twins(**options, perceive_depth=draw.choice([1, 2]))
        same(theirs, ours, tokens(2, draw.randint(prefix + 1, 24)))
