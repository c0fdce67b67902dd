"""`generate` of transformers: with a cache what it gives without one, for every backbone and mode."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("transformers")
from tests.hf.models import BIDIRECTIONAL, CAUSAL, SMALL, VOCAB, causal, tokens
from transformers import AutoModelForCausalLM, TextStreamer, pipeline

import subquadratic as sq
from subquadratic.hf import SubquadraticCache, SubquadraticConfig, SubquadraticForCausalLM

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True, "top_k": 8, "temperature": 1.3},
    "several": {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam_sample": {"num_beams": 2, "do_sample": True},
    "penalised": {"do_sample": False, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}
MODELS = {name: causal(name) for name in CAUSAL}


def outcome(model: Any, prompt: Tensor, mask: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    """Sequences, and the logits of every step."""
    torch.manual_seed(5)
    found = model.generate(
        prompt, attention_mask=mask, return_dict_in_generate=True, output_logits=True, pad_token_id=0, max_new_tokens=7, **options
    )
    return found.sequences, torch.stack(found.logits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(CAUSAL)),
    mode=st.sampled_from(sorted(MODES)),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    padding=st.sampled_from(["left", "right", "inside", "none"]),
    chunk=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 9),
)
def test_cached_is_uncached(name: str, mode: str, lengths: list[int], padding: str, chunk: int | None, seed: int) -> None:
    model, width = MODELS[name], max(lengths) + 2
    prompt = tokens(len(lengths), width, seed=seed)
    mask = None
    if padding != "none":
        generator = torch.Generator().manual_seed(seed)
        mask = torch.zeros(len(lengths), width, dtype=torch.long)
        for row, length in enumerate(lengths):
            places = {"left": range(width - length, width), "right": range(length)}.get(padding)
            mask[row, torch.randperm(width, generator=generator)[:length] if places is None else list(places)] = 1
        prompt = prompt.masked_fill(mask == 0, 0)
    options = MODES[mode]
    with_cache = outcome(model, prompt, mask, prefill_chunk_size=chunk, **options)
    without = outcome(model, prompt, mask, use_cache=False, **options)
    torch.testing.assert_close(with_cache[1], without[1], atol=2e-4, rtol=1e-3)
    assert torch.equal(with_cache[0], without[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_it_is_our_own_greedy_text(name: str) -> None:
    model, prompt = MODELS[name], tokens(2, 5)
    ours = sq.LanguageModel(CAUSAL[name], vocab_size=VOCAB, max_length=model.model.max_length)
    ours.load_state_dict(model._in_our_names(model.state_dict()))
    expected = ours.generate(prompt, max_new_tokens=12, temperature=0)
    assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False), expected)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padding", ["left", "right", "inside"])
def test_padding_changes_nothing(name: str, padding: str) -> None:
    model, real = MODELS[name], tokens(1, 6, seed=3)
    alone = outcome(model, real, None, do_sample=False)
    places = {"left": [4, 5, 6, 7, 8, 9], "right": [0, 1, 2, 3, 4, 5], "inside": [1, 2, 4, 5, 8, 9]}[padding]
    prompt, mask = tokens(2, 10, seed=4), torch.ones(2, 10, dtype=torch.long)
    prompt[0], mask[0] = 0, 0
    prompt[0, places], mask[0, places] = real[0], 1
    both = outcome(model, prompt, mask, do_sample=False)
    torch.testing.assert_close(both[1][:, :1], alone[1], atol=2e-4, rtol=1e-3)
    assert torch.equal(both[0][:1, 10:], alone[0][:, 6:])


@pytest.mark.parametrize("name", CAUSAL)
def test_it_goes_on_from_a_cache(name: str) -> None:
    model, prompt, more = MODELS[name], tokens(2, 6), tokens(2, 3, seed=8)
    first = model.generate(prompt, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    held = copy.deepcopy(first.past_key_values)
    whole = torch.cat((first.sequences, more), dim=1)
    options = {"attention_mask": torch.ones_like(whole), "max_new_tokens": 5, "do_sample": False}  # else transformers masks token 0
    fresh = model.generate(whole, **options)
    assert torch.equal(model.generate(whole, past_key_values=first.past_key_values, **options), fresh)
    again = model.generate(whole, past_key_values=held, **options)
    assert torch.equal(again, fresh), "a copy of the cache is untouched by what goes on from the cache"


def test_no_token_is_read_twice() -> None:
    model, prompt = MODELS["performer"], tokens(1, 6)
    cache = model(prompt, use_cache=True).past_key_values
    assert cache.get_seq_length() == 6
    for whole in (prompt, prompt[:, :4]):
        with pytest.raises(ValueError, match="past_key_values holds 6 tokens, and the prompt has"):
            model.generate(whole, past_key_values=cache, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("name", CAUSAL)
def test_embedded_prompts(name: str) -> None:
    model, prompt = MODELS[name], tokens(2, 6)
    vectors = model.get_input_embeddings()(prompt)
    new = model.generate(inputs_embeds=vectors, max_new_tokens=6, do_sample=False)
    assert torch.equal(new, model.generate(prompt, max_new_tokens=6, do_sample=False)[:, 6:])


class Letters:
    """Enough of a tokenizer for a streamer: token 1 is "a"."""

    def decode(self, ids: Any, **unused: Any) -> str:
        return "".join(chr(96 + int(token)) for token in ids)


def test_streamer(capsys: pytest.CaptureFixture[str]) -> None:
    model, prompt = MODELS["gated_linear"], tokens(1, 4)
    found = model.generate(prompt, max_new_tokens=6, do_sample=False, streamer=TextStreamer(Letters()))
    assert capsys.readouterr().out.strip() == Letters().decode(found[0])


def byte_tokenizer() -> Any:
    """Letters as a stock tokenizer: "a" is token 1, and the pad token 0."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0} | {chr(96 + number): number for number in range(1, VOCAB)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", padding_side="left")


def test_stop_strings_and_pipeline() -> None:
    model, tokenizer = MODELS["fastformer"], byte_tokenizer()
    inputs = tokenizer("abc", return_tensors="pt", return_token_type_ids=False)
    whole = tokenizer.decode(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0])
    stop = whole[5:7]
    cut = tokenizer.decode(model.generate(**inputs, max_new_tokens=8, do_sample=False, stop_strings=[stop], tokenizer=tokenizer)[0])
    assert cut == whole[: whole.index(stop, 3) + 2]
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    found = generator(["abc", "hello"], batch_size=2, max_new_tokens=8, do_sample=False)
    assert found[0][0]["generated_text"] == whole


def test_what_a_state_cannot_do_is_refused() -> None:
    model, prompt = MODELS["performer"], tokens(1, 5)
    for options in ({"assistant_model": MODELS["fastformer"]}, {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(ValueError, match="stateful"):
            model.generate(prompt, max_new_tokens=4, do_sample=False, **options)
    cache = model(prompt, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(-1)


def test_other_cache_implementations_are_ours() -> None:
    model, prompt = MODELS["performer"], tokens(1, 5)
    expected = model.generate(prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False, cache_implementation="static"), expected)


@pytest.mark.parametrize("name", ["linformer", "transformer_window"])
def test_the_limit_is_told_before_the_first_token(name: str) -> None:
    model, prompt = MODELS[name], tokens(1, 70)
    assert model.generate(prompt, max_new_tokens=11, do_sample=False).shape == (1, 81)  # the last token is never read
    with pytest.raises(ValueError, match="take 81 positions, but this model has max_position_embeddings=80"):
        model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert model.generate(prompt, do_sample=False).shape[1] <= 80, "without limits transformers stops there"
    mask = torch.ones_like(prompt)
    mask[:, :30] = 0
    assert model.generate(prompt, attention_mask=mask, max_new_tokens=30, do_sample=False).shape == (1, 100), "padding takes no position"


def test_a_bidirectional_model_does_not_generate() -> None:
    with pytest.raises(ValueError, match=r"needs a causal backbone.*AutoModelForMaskedLM"):
        SubquadraticForCausalLM(SubquadraticConfig(backbone=BIDIRECTIONAL["performer"]))
    with pytest.raises(ValueError, match="needs a causal backbone"):
        AutoModelForCausalLM.from_config(SubquadraticConfig(backbone=BIDIRECTIONAL["linformer"]))


def test_hooks_act_in_every_step() -> None:
    model, prompt = causal("performer"), tokens(1, 5)
    plain = model.generate(prompt, max_new_tokens=14, do_sample=False)
    seen = []
    handle = model.model.backbone.stack.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    assert torch.equal(model.generate(prompt, max_new_tokens=14, do_sample=False), plain)
    handle.remove()
    assert seen == [5] + [1] * 13
    seen.clear()
    for module in (model.model, model.lm_head, model.model.norm):
        module.register_forward_hook(lambda module, inputs, output: seen.append(module))
    model.generate(prompt, max_new_tokens=14, do_sample=False)
    assert len(seen) == 3 * 14


def test_weights_that_change_act_at_once() -> None:
    model, prompt = causal("performer"), tokens(1, 5)
    first = model.generate(prompt, max_new_tokens=14, do_sample=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))
    changed = model.generate(prompt, max_new_tokens=14, do_sample=False)
    assert not torch.equal(changed, first)
    model.set_output_embeddings(torch.nn.Linear(SMALL["dim"], VOCAB, bias=False))
    other = model.generate(prompt, max_new_tokens=14, do_sample=False)
    assert torch.equal(other, model.generate(prompt, max_new_tokens=14, do_sample=False, use_cache=False))


def test_recorded_steps_are_what_the_model_does() -> None:
    model, prompt = causal("gated_linear"), tokens(2, 5)
    found = model.generate(prompt, max_new_tokens=20, do_sample=False, return_dict_in_generate=True, output_logits=True)
    cache = found.past_key_values
    assert cache.layer.steps is not None and cache.layer.steps._bound is not None, "the step was not recorded"
    logits = model(found.sequences[:, :-1], use_cache=False).logits[:, 4:]
    torch.testing.assert_close(torch.stack(found.logits, dim=1), logits, atol=1e-4, rtol=1e-3)


def test_caches_of_two_texts_do_not_mix() -> None:
    model = causal("fastformer")
    one, two = tokens(1, 20, seed=1), tokens(1, 20, seed=2)
    caches = [SubquadraticCache(), SubquadraticCache()]
    found: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for place in range(20):
            for text, cache, logits in zip((one, two), caches, found, strict=True):
                logits.append(model(text[:, place : place + 1], past_key_values=cache).logits)
    for text, logits in zip((one, two), found, strict=True):
        torch.testing.assert_close(torch.cat(logits, dim=1), model(text, use_cache=False).logits, atol=1e-4, rtol=1e-3)


def test_an_empty_prompt_is_said_to_be_empty() -> None:
    model = SubquadraticForCausalLM(SubquadraticConfig(backbone={"model_type": "performer", "dim": 16, "depth": 1, "heads": 2})).eval()
    for empty in ({"inputs_embeds": torch.zeros(2, 0, 16)}, {"input_ids": torch.zeros(2, 0, dtype=torch.int64)}):
        with pytest.raises(ValueError, match="the prompt is empty: give input_ids or inputs_embeds"):
            model.generate(**empty, max_new_tokens=3)
