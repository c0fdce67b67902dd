"""`forward` of the models for transformers: masks, packed documents, what is kept, what is refused."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("transformers")

from tests.hf.models import BIDIRECTIONAL, CAUSAL, SMALL, VOCAB, causal, limit, louder, tokens

import subquadratic as sq
from subquadratic.hf import SubquadraticConfig, SubquadraticForMaskedLM, SubquadraticForSequenceClassification, SubquadraticModel

MODELS = {name: causal(name) for name in CAUSAL}
CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-3}


def masked_model(name: str) -> SubquadraticForMaskedLM:
    torch.manual_seed(1)
    config = BIDIRECTIONAL[name]
    return louder(
        SubquadraticForMaskedLM(SubquadraticConfig(backbone=config, vocab_size=VOCAB, max_position_embeddings=limit(config)))
    ).eval()


@pytest.mark.parametrize("name", CAUSAL)
def test_right_padding_without_a_mask_changes_nothing(name: str) -> None:
    """As lm-eval pads: token 0, on the right, and no mask."""
    model, text = MODELS[name], tokens(1, 11)
    padded = torch.cat((text, torch.zeros(1, 9, dtype=torch.long)), dim=1)
    torch.testing.assert_close(model(padded).logits[:, :11], model(text).logits, **CLOSE)


@pytest.mark.parametrize("name", ["perceiver_ar", "perceiver_ar_refill"])
def test_a_perceiver_ar_says_at_every_position_what_decoding_says(name: str) -> None:
    model, text = MODELS[name], tokens(2, 19)
    with torch.no_grad():
        whole = model(text, use_cache=False).logits
        one_by_one = [model(text[:, : place + 1], use_cache=False, logits_to_keep=1).logits for place in range(19)]
        torch.testing.assert_close(whole, torch.cat(one_by_one, dim=1), **CLOSE)
        ours = sq.LanguageModel(CAUSAL[name], vocab_size=VOCAB)
        ours.load_state_dict(model._in_our_names(model.state_dict()))
        ours.eval()
        state, steps = ours.init_state(2), []
        for place in range(19):
            logits, state = ours.extend(text[:, place : place + 1], state)
            steps.append(logits)
    torch.testing.assert_close(whole, torch.cat(steps, dim=1), **CLOSE)


@pytest.mark.parametrize("name", ["perceiver_ar", "perceiver_ar_refill"])
def test_a_perceiver_ar_is_trained_in_blocks(name: str) -> None:
    """Each block of positions reads all before it with itself as latents; also where rows end in the midst of one."""
    model, text = MODELS[name], tokens(2, 15)
    mask = torch.ones_like(text)
    mask[0, :4] = 0
    found = model(text, attention_mask=mask, labels=text)
    expected = torch.zeros_like(found.logits)
    ours = sq.LanguageModel(CAUSAL[name], vocab_size=VOCAB).eval()
    ours.load_state_dict(model._in_our_names(model.state_dict()))
    for row, real in enumerate((text[:1, 4:], text[1:])):
        for start in range(0, real.shape[1], 6):
            stop = min(start + 6, real.shape[1])
            offset = 15 - real.shape[1]
            expected[row, offset + start : offset + stop] = ours(real[:, :stop], latents=stop - start)[0]
    torch.testing.assert_close(found.logits, expected, **CLOSE)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(CAUSAL)),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    how=st.sampled_from(["position_ids", "cu_seq_lens_q", "seq_idx"]),
    labelled=st.booleans(),
    lead=st.integers(0, 2),
)
def test_packed_documents_do_not_see_each_other(name: str, lengths: list[int], how: str, labelled: bool, lead: int) -> None:
    model, documents = MODELS[name], [tokens(1, length, seed=number) for number, length in enumerate(lengths)]
    packed = torch.cat(documents, dim=1)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    given: dict[str, Any] = {
        "position_ids": {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]},
        "cu_seq_lens_q": {"cu_seq_lens_q": bounds.int()},
        "seq_idx": {"seq_idx": torch.cat([torch.full((1, length), number) for number, length in enumerate(lengths)], dim=1)},
    }[how]
    if lead and how == "position_ids":  # padding before
        packed = torch.nn.functional.pad(packed, (lead, 0))
        given = {"position_ids": torch.nn.functional.pad(given["position_ids"], (lead, 0)), "attention_mask": (packed != 0).long()}
    else:
        lead = 0
    labels = packed.masked_fill(packed == 0, -100) if labelled else None
    found = model(packed, labels=labels, **given)
    alone = [model(document, labels=document if labelled else None) for document in documents]
    torch.testing.assert_close(found.logits[:, lead:], torch.cat([one.logits for one in alone], dim=1), **CLOSE)
    if labelled and max(lengths) > 1:
        total = sum(one.loss * (len(document[0]) - 1) for one, document in zip(alone, documents, strict=True) if len(document[0]) > 1)
        torch.testing.assert_close(found.loss, total / sum(length - 1 for length in lengths), **CLOSE)
    assert found.past_key_values is None


def test_packed_rows_of_a_batch_and_their_gradients() -> None:
    model, text = causal("gated_linear"), tokens(2, 12)
    positions = torch.stack([torch.arange(12) % 5, torch.cat([torch.arange(9), torch.arange(3)])])
    model(text, position_ids=positions, labels=text).loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    pieces = [text[0, :5], text[0, 5:10], text[0, 10:], text[1, :9], text[1, 9:]]
    losses = [model(piece[None], labels=piece[None]).loss * (len(piece) - 1) for piece in pieces]
    (sum(losses) / sum(len(piece) - 1 for piece in pieces)).backward()
    for one, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-4, rtol=1e-3)


def test_documents_of_very_different_lengths_are_not_padded_to_the_longest() -> None:
    model, seen = causal("fastformer"), []
    model.model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0] * output.shape[1]))
    lengths = [64] + [2] * 30
    text = tokens(1, sum(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    model(text, position_ids=positions, use_cache=False)
    assert sum(seen) <= 2 * sum(lengths), seen


def test_a_cache_does_not_go_on_with_packed_documents() -> None:
    model = MODELS["performer"]
    cache = model(tokens(1, 4), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="packed documents cannot go on"):
        model(tokens(1, 4), past_key_values=cache, position_ids=torch.tensor([[4, 5, 0, 1]]))
    with pytest.raises(ValueError, match="position_ids must count"):
        model(tokens(1, 4), position_ids=torch.tensor([[3, 4, 5, 6]]))


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_masked_tokens_are_our_own_masked(name: str) -> None:
    model, text = masked_model(name), tokens(2, 9)
    ours = sq.LanguageModel(BIDIRECTIONAL[name], vocab_size=VOCAB, max_length=model.model.max_length)
    ours.load_state_dict(model._in_our_names(model.state_dict()))
    ours.eval()
    hidden = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    found = model(text.masked_fill(hidden, VOCAB), attention_mask=mask.long(), labels=text.masked_fill(~hidden, -100))
    torch.testing.assert_close(found.logits, ours(text, mask=mask, masked=hidden), **CLOSE)
    assert found.loss.isfinite()
    assert model(text, use_cache=None).logits.shape == (2, 9, VOCAB)
    with pytest.raises(ValueError, match="bidirectional model has no cache"):
        model.model(text, use_cache=True)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_packed_documents_of_a_bidirectional_model(name: str) -> None:
    model, one, two = masked_model(name), tokens(1, 5), tokens(1, 8, seed=4)
    found = model(torch.cat((one, two), dim=1), cu_seq_lens_q=torch.tensor([0, 5, 13])).logits
    torch.testing.assert_close(found, torch.cat((model(one).logits, model(two).logits), dim=1), **CLOSE)


@pytest.mark.parametrize("name", ["performer", "perceiver_ar", "gated_linear"])
def test_logits_to_keep(name: str) -> None:
    model, text = MODELS[name], tokens(2, 13)
    whole = model(text).logits
    for keep in (1, 4, 13):
        torch.testing.assert_close(model(text, logits_to_keep=keep).logits, whole[:, -keep:], **CLOSE)
        torch.testing.assert_close(model(text, logits_to_keep=keep, use_cache=False).logits, whole[:, -keep:], **CLOSE)
    places = torch.tensor([0, 3, 12])
    torch.testing.assert_close(model(text, logits_to_keep=places).logits, whole[:, places], **CLOSE)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", ["performer", "perceiver_ar", "fastformer"])
def test_classes_are_our_own_classifiers(name: str, pooling: str) -> None:
    if name == "perceiver_ar" and pooling == "mean":
        pytest.skip("a Perceiver AR pools its last output")
    torch.manual_seed(0)
    config = SubquadraticConfig(backbone=CAUSAL[name], vocab_size=VOCAB, num_labels=3, pooling=pooling)
    model = louder(SubquadraticForSequenceClassification(config)).eval()
    ours = sq.SequenceClassifier(CAUSAL[name], vocab_size=VOCAB, num_classes=3, pooling=pooling)
    ours.load_state_dict(model._in_our_names(model.state_dict()))
    ours.eval()
    text, mask = tokens(3, 10), torch.ones(3, 10, dtype=torch.bool)
    mask[0, :4], mask[1, 7:], mask[2, :] = False, False, False
    found = model(text, attention_mask=mask, labels=torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found.logits, ours(text, mask=mask), **CLOSE)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, torch.tensor([0, 1, 2])))
    torch.testing.assert_close(model.train()(text, attention_mask=mask).logits, found.logits, **CLOSE)


def test_what_is_not_there_is_refused_by_name() -> None:
    model, text = MODELS["performer"], tokens(2, 5)
    for arguments, message in (
        ({"output_hidden_states": True}, "output_hidden_states: hidden states between the layers are not given"),
        ({"output_attentions": True}, "output_attentions: attention matrices"),
        ({"attention_mask": torch.ones(2, 1, 5, 5)}, "attention_mask must be \\(batch, length\\).*masks of pairs"),
        ({"attention_mask": torch.ones(2, 4)}, "attention_mask must be \\(batch, length\\) = \\(2, 5\\)"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 16)}, "cross_attention=True"),
        ({"past_key_values": ()}, "must be a SubquadraticCache"),
        ({"inputs_embeds": torch.zeros(2, 5, 16)}, "either input_ids or inputs_embeds"),
    ):
        with pytest.raises((ValueError, AttributeError), match=message):
            model(text, **arguments)
    cache = model(text, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="holds 2 rows, and the input has 3"):
        model(tokens(3, 2), past_key_values=cache)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_batch_is_read_on_with_a_cache_by_hand(name: str) -> None:
    model, text = MODELS[name], tokens(2, 12)
    whole = model(text, use_cache=False).logits
    cache, found = None, []
    for piece in text.split([3, 1, 5, 1, 2], dim=1):
        outputs = model(piece, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        found.append(outputs.logits)
    assert cache.get_seq_length() == 12
    torch.testing.assert_close(torch.cat(found, dim=1), whole, **CLOSE)


def test_tuples_and_the_base_model() -> None:
    model, text = MODELS["performer"], tokens(1, 5)
    logits = model(text, return_dict=False, use_cache=False)[0]
    hidden: Tensor = SubquadraticModel.forward(model.model, text, use_cache=False).last_hidden_state
    torch.testing.assert_close(model.lm_head(hidden), logits, **CLOSE)


def test_a_decoder_reads_an_encoder() -> None:
    torch.manual_seed(0)
    from subquadratic.hf import SubquadraticForCausalLM

    config = sq.PerformerConfig(**SMALL, features=12, cross_attention=True)
    model = louder(SubquadraticForCausalLM(SubquadraticConfig(backbone=config, vocab_size=VOCAB))).eval()
    source, text = torch.randn(2, 4, 16), tokens(2, 6)
    whole = model(text, encoder_hidden_states=source, use_cache=False).logits
    first = model(text[:, :4], encoder_hidden_states=source, use_cache=True)
    rest = model(text[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), dim=1), whole, **CLOSE)
    assert not torch.allclose(model(text, encoder_hidden_states=source * 2, use_cache=False).logits, whole, atol=1e-3)
    with pytest.raises(ValueError, match="encoder_hidden_states is required"):
        model(text)
