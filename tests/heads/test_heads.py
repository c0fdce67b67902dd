"""The heads: losses by definition, masked prediction, classification, sequence to sequence."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import subquadratic as sq
from subquadratic.heads.targets import choose_masked

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}


@pytest.mark.parametrize("tied", [True, False])
def test_next_token_loss_is_the_mean_cross_entropy(tied: bool) -> None:
    model, x = sq.LanguageModel(sq.TransformerConfig(**SMALL), vocab_size=11, tie_embeddings=tied).double(), torch.randint(0, 11, (3, 9))
    expected = F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(model.loss(x), expected)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4], mask[1, -3:] = False, False
    terms = [F.cross_entropy(model(x[row : row + 1, keep])[0, :-1], x[row, keep][1:], reduction="none") for row, keep in enumerate(mask)]
    torch.testing.assert_close(model.loss(x, mask), torch.cat(terms).mean())


def test_a_perceiver_ar_is_trained_on_its_last_positions() -> None:
    model, x = sq.LanguageModel(sq.PerceiverARConfig(**SMALL, latents=4), vocab_size=11).double(), torch.randint(0, 11, (2, 9))
    expected = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, -4:].flatten())
    torch.testing.assert_close(model.loss(x), expected)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :6], mask[1, -2:] = False, False
    terms = [F.cross_entropy(model(row[None, :-1])[0], row[1:][-4:], reduction="none") for row in (x[0, 6:], x[1, :7])]
    torch.testing.assert_close(model.loss(x, mask), torch.cat(terms).mean())
    assert model(x, latents=2).shape == (2, 2, 11)


def test_hidden_tokens_are_a_share_of_the_real_ones() -> None:
    x = torch.zeros(4, 40, dtype=torch.int64)
    mask = torch.ones(4, 40, dtype=torch.bool)
    mask[1, 20:], mask[2, 1:], mask[3] = False, False, False
    chosen = choose_masked(x, mask, 0.15, torch.Generator().manual_seed(0))
    assert chosen.sum(dim=1).tolist() == [6, 3, 1, 0] and not (chosen & ~mask).any()


def test_masked_loss_does_not_see_what_it_hides() -> None:
    model = sq.LanguageModel(sq.FastformerConfig(**SMALL, causal=False), vocab_size=11).double()
    x = torch.randint(0, 11, (2, 9))
    masked = torch.zeros(2, 9, dtype=torch.bool)
    masked[:, 4] = True
    other = x.clone()
    other[:, 4] = (x[:, 4] + 1) % 11
    assert torch.equal(model(x, masked=masked), model(other, masked=masked))
    chosen = choose_masked(x, None, 0.3, torch.Generator().manual_seed(2))
    expected = F.cross_entropy(model(x, masked=chosen)[chosen], x[chosen])
    torch.testing.assert_close(model.loss(x, mask_probability=0.3, generator=torch.Generator().manual_seed(2)), expected)
    with pytest.raises(ValueError, match="bidirectional"):
        sq.LanguageModel(sq.FastformerConfig(**SMALL), vocab_size=11)(x, masked=masked)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_classifier_pools_real_positions(pooling: str) -> None:
    model = sq.SequenceClassifier(sq.PerformerConfig(**SMALL), vocab_size=11, num_classes=3, pooling=pooling).double().eval()
    x = torch.randint(0, 11, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :3] = False
    torch.testing.assert_close(model(x, mask=mask)[:1], model(x[:1, 3:]))
    labels = torch.tensor([1, 2])
    torch.testing.assert_close(model.loss(x, labels, mask), F.cross_entropy(model(x, mask=mask).float(), labels))
    assert not model(x, mask=torch.zeros_like(mask)).any()
    with pytest.raises(ValueError, match="pooling must be one of"):
        sq.SequenceClassifier(sq.PerformerConfig(**SMALL), num_classes=3, pooling="max")


DECODERS = [
    sq.PerformerConfig(**SMALL, cross_attention=True, context_dim=24),
    sq.TransformerConfig(**SMALL, cross_attention=True, context_dim=24, reversible=True),
    sq.LinformerConfig(**SMALL, max_length=12, slots=3, share="layer", cross_attention=True, context_dim=24, context_length=20),
    sq.FeedbackTransformerConfig(**SMALL, memory_length=5, cross_attention=True, context_dim=24),
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda config: config.model_type)
def test_an_encoder_decoder_streams_and_ignores_padding(decoder: sq.BackboneConfig) -> None:
    encoder = sq.LinformerConfig(dim=24, depth=1, heads=2, causal=False, max_length=20, slots=4)
    model = sq.EncoderDecoder(encoder, decoder, vocab_size=11, target_vocab_size=13).double().eval()
    source, target = torch.randint(0, 11, (2, 8)), torch.randint(0, 13, (2, 6))
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    whole = model(source, target, source_mask=mask)
    torch.testing.assert_close(whole[:1], model(source[:1, :5], target[:1]), rtol=1e-6, atol=1e-8)
    state, parts = model.init_state(source=source, source_mask=mask), []
    for piece in (slice(0, 1), slice(1, 4), slice(4, 6)):
        logits, state = model.extend(target[:, piece], state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-6, atol=1e-8)
    loss = model.loss(source, target, source_mask=mask)
    torch.testing.assert_close(loss, F.cross_entropy(whole[:, :-1].flatten(0, 1), target[:, 1:].flatten()))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        model.decoder.head.weight.mul_(50)
    out = model.generate(source, target[:, :1], source_mask=mask, max_new_tokens=5, temperature=0.0)
    slow = target[:, :1]
    for _ in range(5):
        slow = torch.cat((slow, model(source, slow, source_mask=mask)[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(out, slow)


def test_configurations_that_do_not_fit_are_named() -> None:
    encoder = sq.PerformerConfig(**SMALL, causal=False)
    with pytest.raises(ValueError, match="cross_attention=True"):
        sq.EncoderDecoder(encoder, sq.PerformerConfig(**SMALL))
    with pytest.raises(ValueError, match="context_dim=16"):
        sq.EncoderDecoder(encoder, sq.PerformerConfig(dim=8, depth=1, heads=2, cross_attention=True))
    with pytest.raises(ValueError, match="must be causal"):
        sq.EncoderDecoder(encoder, sq.PerformerConfig(**SMALL, cross_attention=True, causal=False))
    with pytest.raises(ValueError, match="every position"):
        sq.EncoderDecoder(sq.PerceiverARConfig(**SMALL), sq.PerformerConfig(**SMALL, cross_attention=True))
    with pytest.raises(ValueError, match="pass context"):
        sq.PerformerConfig(**SMALL, cross_attention=True).build()(torch.zeros(1, 3, 16))


def test_redrawing_reaches_every_projection_and_nothing_else() -> None:
    model = sq.LanguageModel(sq.PerformerConfig(**SMALL), vocab_size=11)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.redraw_(torch.Generator().manual_seed(0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.endswith("projection")
    sq.LanguageModel(sq.FastformerConfig(**SMALL), vocab_size=11).redraw_()  # nothing to draw, nothing to fail
