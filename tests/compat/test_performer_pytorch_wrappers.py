"""The twin of performer-pytorch: training and sampling wrapper, encoder and decoder, and what the published README shows."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import performer_pytorch as published

from subquadratic.compat import performer_pytorch as twin
from subquadratic.compat.performer_pytorch.autoregressive_wrapper import repetition_penalty_fn, top_k, top_p

OPTIONS: dict[str, Any] = {"num_tokens": 13, "max_seq_len": 16, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8}
PAIR: dict[str, Any] = {f"{side}_{name}": value for side in ("enc", "dec") for name, value in OPTIONS.items() if name != "dim"}


def wrapper(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return twin.AutoregressiveWrapper(twin.PerformerLM(**{**OPTIONS, "causal": True, **options}))


def greedy(model: Any, tokens: Tensor, count: int, **kwargs: Any) -> Tensor:
    return model.generate(tokens, count, temperature=0, **kwargs)


# Samplers


def test_top_k_keeps_one_at_least() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert (top_k(logits, 0.9) > -torch.inf).tolist() == [[False, True, False]]
    assert (top_k(logits, 0.3) > -torch.inf).tolist() == [[False, True, True]]


def test_top_p_keeps_the_fewest_that_reach_the_threshold() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    for thres, kept in ((0.0, [1]), (0.4, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        assert (top_p(logits, thres) > -torch.inf).nonzero()[:, 1].tolist() == kept


def test_repetition_penalty_knows_signs_and_rows() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    seen = torch.tensor([[0, 1], [2, 0]])
    got = repetition_penalty_fn(logits, seen, 2.0, torch.tensor([[True, True], [True, False]]))
    assert got.tolist() == [[1.0, -4.0, 1.0], [2.0, -2.0, 0.5]]


# Generation


@pytest.mark.parametrize("causal", [False, True])
def test_greedy_generation_is_the_published_one(causal: bool) -> None:
    torch.manual_seed(0)
    reference = published.AutoregressiveWrapper(published.PerformerLM(**{**OPTIONS, "causal": causal}))
    model = wrapper(causal=causal)
    model.load_state_dict(reference.state_dict())
    tokens = torch.randint(0, 13, (3, 5))
    for prompt, count in ((tokens, 16), (tokens[0], 4)):  # 5 + 16 slides past max_seq_len
        assert torch.equal(reference.generate(prompt, count, filter_thres=0.9), greedy(model, prompt, count))


def test_generation_reads_each_token_once() -> None:
    model = wrapper()
    lengths = []
    extend = model.net.extend
    model.net.extend = lambda tokens, state, mask: (lengths.append(tokens.shape[1]), extend(tokens, state, mask=mask))[1]
    greedy(model, torch.randint(0, 13, (2, 4)), 5)
    assert lengths == [4, 1, 1, 1, 1]


def test_prompts_padded_on_either_side_go_on_alike() -> None:
    model = wrapper(shift_tokens=True, local_attn_heads=1, local_window_size=4)
    tokens = torch.randint(0, 13, (1, 4))
    expected = greedy(model, tokens, 6)
    for padding in ((3, 0), (0, 3), (2, 1)):
        mask = F.pad(torch.ones(1, 4, dtype=torch.bool), padding)
        assert torch.equal(expected, greedy(model, F.pad(tokens, padding, value=9), 6, mask=mask))
    with pytest.raises(ValueError, match="at least one real token"):
        greedy(model, tokens, 2, mask=torch.zeros(1, 4, dtype=torch.bool))


def test_rows_end_one_by_one() -> None:
    model = wrapper()
    model.pad_value = 7
    tokens = torch.randint(0, 13, (6, 3))
    free = greedy(model, tokens, 8)
    eos = int(free[0, 1])
    got = greedy(model, tokens, 8, eos_token=eos)
    for row, expected in zip(got, free, strict=True):
        ends = (expected == eos).nonzero()
        stop = int(ends[0]) + 1 if len(ends) else 8
        assert torch.equal(row[:stop], expected[: min(stop, len(row))])
        assert (row[stop:] == 7).all()
    assert got.shape[1] == 8 or (free == eos).any(dim=1).all()


def test_the_mode_comes_back_even_after_an_error() -> None:
    model = wrapper().train()
    with pytest.raises(ZeroDivisionError):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 2, filter_logits_fn=lambda logits, thres: 1 // 0)
    assert model.net.training


def test_sampling_draws_from_the_generator() -> None:
    model = wrapper()
    tokens = torch.randint(0, 13, (2, 4))
    draws = [
        model.generate(tokens, 8, filter_logits_fn=top_p, repetition_penalty=1.3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"repetition_penalty": 0.0}], ids=str)
def test_wrong_sampling_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        wrapper().generate(torch.zeros(1, 1, dtype=torch.int64), 2, **wrong)
    with pytest.raises(TypeError):
        wrapper().generate(torch.zeros(1, 1, dtype=torch.int64), 2, top_k=3)


# Loss


def test_loss_is_the_published_one() -> None:
    reference = published.AutoregressiveWrapper(published.PerformerLM(**OPTIONS))
    model = wrapper(causal=False)
    model.load_state_dict(reference.state_dict())
    tokens = torch.randint(0, 13, (2, 9))
    whole = torch.ones(2, 9, dtype=torch.bool)
    for mask in (None, whole, whole[:, 1:]):
        torch.testing.assert_close(model(tokens, mask=mask), reference(tokens, mask=mask))


def test_padding_does_not_count_in_the_loss() -> None:
    model = wrapper()
    tokens = torch.randint(1, 13, (2, 9))
    mask = torch.arange(9).expand(2, 9) < 6
    torch.testing.assert_close(model(tokens, mask=mask), model(tokens[:, :6]))
    assert model(torch.zeros_like(tokens)) == 0  # every target is ignored


# Encoder and decoder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", [{}, {"no_projection": True, "enc_reversible": True, "dec_reversible": True}], ids=str)
def test_encoder_decoder_is_the_published_one(tied: bool, options: dict[str, Any]) -> None:
    every = {**PAIR, "tie_token_embeds": tied, **options}
    torch.manual_seed(0)
    reference, model = published.PerformerEncDec(16, **every), twin.PerformerEncDec(16, **every)
    model.load_state_dict(reference.state_dict())
    source, target = torch.randint(0, 13, (2, 11)), torch.randint(0, 13, (2, 8))
    masks = {"enc_mask": torch.ones(2, 11, dtype=torch.bool), "dec_mask": torch.ones(2, 8, dtype=torch.bool)}
    losses = [each(source, target, **masks) for each in (reference, model)]
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-4, atol=0)
    for loss in losses:
        loss.backward()
    wanted, got = (each.enc.token_emb.weight.grad for each in (reference, model))
    assert (wanted - got).norm() <= 2e-2 * wanted.norm()
    expected = reference.eval().generate(source, target[:, :1], 6, filter_thres=0.9)
    assert torch.equal(expected, model.generate(source, target[:, :1], 6, temperature=0, enc_mask=masks["enc_mask"]))


def test_a_tied_table_is_saved_once() -> None:
    model, other = (twin.PerformerEncDec(16, tie_token_embeds=True, **PAIR) for _ in range(2))
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other.load_state_dict(state)
    assert other.tied and torch.equal(other.enc.token_emb.weight, model.enc.token_emb.weight)
    del state["dec.net.token_emb.weight"]
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict(state)


def test_the_spelling_of_the_readme_ties_until_an_untied_checkpoint_comes() -> None:
    model = twin.PerformerEncDec(16, tie_token_embed=True, **PAIR)
    assert model.tied
    reference = published.PerformerEncDec(16, tie_token_embed=True, **PAIR)
    with pytest.warns(UserWarning, match="untied"):
        model.load_state_dict(reference.state_dict())
    assert torch.equal(model.enc.token_emb.weight, reference.enc.token_emb.weight)
    assert torch.equal(model.dec.net.token_emb.weight, reference.dec.net.token_emb.weight)
    with pytest.raises(RuntimeError, match="tie_token_embeds=True, but"):
        twin.PerformerEncDec(16, tie_token_embeds=True, **PAIR).load_state_dict(reference.state_dict())


def test_unknown_keywords_are_refused() -> None:
    for build in (
        lambda: twin.PerformerEncDec(16, **PAIR, tie_embeds=True),
        lambda: twin.PerformerEncDec(16, **PAIR, enc_width=3),
        lambda: twin.PerformerLM(**OPTIONS, width=3),
        lambda: twin.SelfAttention(16, width=3),
        lambda: twin.SelfAttention(16)(torch.zeros(1, 2, 16), width=3),
    ):
        with pytest.raises(TypeError, match=r"tie_embeds|width"):
            build()
    with pytest.raises(ValueError, match="enc_dim"):
        twin.PerformerEncDec(16, **PAIR, enc_dim=3)
    with pytest.raises(ValueError, match="dec_causal"):
        twin.PerformerEncDec(16, **PAIR, dec_causal=False)
    model = twin.PerformerLM(**OPTIONS)
    with pytest.raises(ValueError, match="cross_attend"):
        model(torch.zeros(1, 2, dtype=torch.int64), context=torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match="max_seq_len = 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("name", sorted(published.__dict__.keys() & set(twin.__all__)))
def test_constructors_take_the_published_arguments(name: str) -> None:
    wanted, got = (inspect.signature(getattr(package, name)).parameters for package in (published, twin))
    names = list(wanted)
    assert [parameter for parameter in got if parameter in wanted] == names
    for parameter in names:
        default = wanted[parameter].default
        if default is not inspect.Parameter.empty and not isinstance(default, nn.Module):
            assert got[parameter].default == default


# The published README, in small


def test_readme() -> None:
    from subquadratic.compat.performer_pytorch import CrossAttention, FastAttention, Performer, PerformerEncDec, PerformerLM, SelfAttention

    model = PerformerLM(
        num_tokens=50, max_seq_len=64, dim=32, depth=2, heads=4, causal=False, nb_features=16, feature_redraw_interval=1000,
        generalized_attention=False, kernel_fn=nn.ReLU(), reversible=True, ff_chunks=10, use_scalenorm=False, use_rezero=False, ff_glu=True,
        emb_dropout=0.1, ff_dropout=0.1, attn_dropout=0.1, local_attn_heads=2, local_window_size=16, shift_tokens=True,
    )  # fmt: skip
    x = torch.randint(0, 50, (1, 64))
    logits = model(x, mask=torch.ones_like(x).bool())
    logits.sum().backward()
    assert logits.shape == (1, 64, 50)

    assert Performer(dim=32, depth=1, heads=4, causal=True)(torch.randn(1, 20, 32)).shape == (1, 20, 32)

    encoder_decoder = PerformerEncDec(dim=16, tie_token_embed=True, **PAIR)
    source, target = torch.randint(0, 13, (1, 16)), torch.randint(0, 13, (1, 16))
    masks = {"enc_mask": torch.ones_like(source).bool(), "dec_mask": torch.ones_like(target).bool()}
    encoder_decoder.train()(source, target, **masks).backward()
    samples = encoder_decoder.generate(source, torch.tensor([[0.0]]).long(), seq_len=10, eos_token=1)
    assert samples.shape[0] == 1 and samples.shape[1] <= 10

    q = torch.randn(1, 8, 12, 16)
    assert FastAttention(dim_heads=16, nb_features=20, causal=False)(q, q, q).shape == q.shape
    x, context = torch.randn(1, 12, 32), torch.randn(1, 7, 32)
    assert SelfAttention(dim=32, heads=8, causal=False)(x).shape == x.shape
    assert CrossAttention(dim=32, heads=8)(x, context=context).shape == x.shape
    model.fix_projection_matrices_()
