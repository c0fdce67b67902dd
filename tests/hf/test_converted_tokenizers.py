"""`subq convert RUN --to huggingface`: the tokenizer beside the model, and what the model knows of special tokens."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tests.data.tokenizers_for_tests import bpe
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.data import ByteTokenizer
from subquadratic.data.tokenizers.values import IntegerTokenizer

SMALL = dict(dim=16, depth=1, heads=2)


def convert(folder: Path, out: Path) -> Path:
    assert main(["convert", str(folder), "--to", "huggingface", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(("rows", "ends"), [(260, [258, 255]), (256, [0xFA, 255]), (None, None)])
def test_a_language_model_ends_documents_and_turns(rows: int | None, ends: list[int] | None, tmp_path: Path) -> None:
    ours = ByteTokenizer() if rows else bpe()
    sq.LanguageModel(sq.PerformerConfig(**SMALL), vocab_size=rows or ours.vocab_size, max_length=77).save_pretrained(tmp_path / "run")
    ours.save(tmp_path / "run")
    out = convert(tmp_path / "run", tmp_path / "out")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer("hello <|eos|>")["input_ids"] == ours.encode("hello <|eos|>").tolist()
    assert model.generation_config.eos_token_id == (ends or [ours.eos_token, tokenizer.convert_tokens_to_ids("\ufdd0end\ufdd1")])
    assert model.config.pad_token_id == tokenizer.pad_token_id and model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.bos_token_id == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 77)
    pair, one = (tokenizer(texts, padding=True, return_tensors="pt") for texts in (["a", "longer"], ["a"]))
    assert not bool(pair["attention_mask"][0, 0])
    new = [model.generate(**given, max_new_tokens=5, do_sample=False)[0, given["input_ids"].shape[1] :].tolist() for given in (pair, one)]
    assert new[0][: len(new[1])] == new[1]


def test_an_encoder_decoder_begins_as_its_targets_did(tmp_path: Path) -> None:
    encoder, decoder = sq.PerformerConfig(**SMALL, causal=False), sq.PerformerConfig(**SMALL, cross_attention=True)
    ours = sq.EncoderDecoder(encoder, decoder, vocab_size=260).eval()
    ours.save_pretrained(tmp_path / "run")
    out = convert(tmp_path / "run", tmp_path / "out")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.generation_config.decoder_start_token_id == tokenizer.bos_token_id == 257 and model.config.eos_token_id == 258
    source = tokenizer(["hello"], return_tensors="pt")["input_ids"]
    expected = ours.generate(source, torch.tensor([[257]]), max_new_tokens=6, temperature=0.0)
    assert model.generate(source, max_new_tokens=6, do_sample=False).tolist() == expected.tolist()


@pytest.mark.parametrize("head", [sq.LanguageModel, sq.SequenceClassifier])
def test_an_encoder_reads_a_text_as_it_stands(head: type[sq.LanguageModel], tmp_path: Path) -> None:
    """sentence-transformers takes every text through a chat template where there is one."""
    size = {} if head is sq.LanguageModel else {"num_classes": 2}
    head(sq.PerformerConfig(**SMALL, causal=False), vocab_size=260, **size).save_pretrained(tmp_path / "run")
    out = convert(tmp_path / "run", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).chat_template is None


def test_integers_have_no_tokenizer_and_their_special_tokens_all_the_same(tmp_path: Path) -> None:
    ours = IntegerTokenizer(9)
    sq.LanguageModel(sq.PerformerConfig(**SMALL), vocab_size=ours.vocab_size).save_pretrained(tmp_path / "run")
    ours.save(tmp_path / "run")
    out = convert(tmp_path / "run", tmp_path / "out")
    assert not (out / "tokenizer.json").exists()
    assert AutoModelForCausalLM.from_pretrained(out).config.eos_token_id == ours.eos_token
