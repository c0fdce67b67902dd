import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.tokenizers_for_tests import LINES, bpe, byte_level
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from subquadratic.data import ByteTokenizer, TextTokenizer, load_tokenizer
from subquadratic.data.tokenizers.token_bytes import byte_values

BPE = bpe()


def saved(backend: Tokenizer, folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_byte_level_text_comes_back_as_it_went_in(text: str) -> None:
    tokens = BPE.encode(text)
    assert BPE.decode(tokens) == text
    assert BPE.byte_lengths()[tokens].sum() == len(text.encode())


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(0, 50))
def test_bytes_of_a_part_are_part_of_the_bytes(text: str, cut: int) -> None:
    tokens = BPE.encode(text)
    assert BPE.decode_bytes(tokens[:cut]) + BPE.decode_bytes(tokens[cut:]) == text.encode()


def test_the_alphabet_is_the_librarys() -> None:
    assert sorted(byte_values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_values().values()) == list(range(256))


@pytest.mark.parametrize("name", ["<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>"])
def test_the_name_of_a_special_token_in_a_text_is_text(name: str) -> None:
    special = {BPE.pad_token, BPE.bos_token, BPE.eos_token, BPE.mask_token}
    assert len(special) == 4
    tokens = BPE.encode(f"a{name}b {name}")
    assert not special & set(tokens.tolist())
    assert BPE.decode(tokens) == f"a{name}b {name}"


def test_a_special_token_among_a_models_own_words_is_not_given_for_text() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "<eos>": 1, "a": 2, "<": 3, "eos>": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = TextTokenizer(words, name="words", named={"eos": "<eos>"})
    assert tokenizer.eos_token == 1
    assert tokenizer.encode("a <eos> b").tolist() == [2, 3, 4, 0]


def test_special_tokens_that_a_file_lacks_come_above_its_own() -> None:
    assert TextTokenizer(byte_level(size=300), name="plain").vocab_size == byte_level(size=300).get_vocab_size() + 4
    assert BPE.eos_token == 0
    assert sorted([BPE.pad_token, BPE.bos_token, BPE.mask_token]) == list(range(BPE.vocab_size - 3, BPE.vocab_size))
    assert BPE.byte_lengths()[[BPE.pad_token, BPE.bos_token, BPE.eos_token, BPE.mask_token]].tolist() == [0] * 4


def test_a_folder_names_its_special_tokens_and_padding_is_a_token_of_its_own(tmp_path: Path) -> None:
    backend = byte_level(["<END>", "<HIDDEN>"])
    folder = saved(backend, tmp_path, eos_token={"content": "<END>"}, bos_token="<END>", pad_token="<END>", mask_token="<HIDDEN>")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.mask_token) == (0, 0, 1)
    assert tokenizer.pad_token == tokenizer.vocab_size - 1 == backend.get_vocab_size()


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path: Path) -> None:
    BPE.save(tmp_path / "new")
    again = load_tokenizer(tmp_path / "new")
    assert isinstance(again, TextTokenizer)
    assert (again.digest, again.roles, again.vocab_size) == (BPE.digest, BPE.roles, BPE.vocab_size)
    assert np.array_equal(again.encode(LINES[1]), BPE.encode(LINES[1]))
    assert load_tokenizer(tmp_path / "new" / "tokenizer.json").digest == BPE.digest
    assert bpe(size=310).digest != BPE.digest


def test_transformers_reads_what_we_save_and_we_read_its_older_files(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    BPE.save(tmp_path / "new")
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "new"))
    assert theirs(LINES[0]).input_ids == BPE.encode(LINES[0]).tolist()
    assert theirs.mask_token_id == BPE.mask_token
    (tmp_path / "old").mkdir()
    byte_level(["<|eos|>"]).model.save(str(tmp_path / "old"))
    (tmp_path / "old" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|eos|>"}))
    old = load_tokenizer(tmp_path / "old")
    assert np.array_equal(old.encode(LINES[2]), BPE.encode(LINES[2]))
    assert old.eos_token == 0


def word_piece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hello": 3, "##s": 4, "world": 5, "[": 6}, unk_token="[UNK]"))
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁hello", -1.0), ("s", -3.0), ("▁world", -1.0), *[(f"<0x{b:02X}>", -9.0) for b in range(256)]]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return backend


@pytest.mark.parametrize("backend", [word_piece(), unigram()], ids=["word_piece", "unigram"])
def test_vocabularies_of_marked_words_keep_the_spaces_between_tokens(backend: Tokenizer) -> None:
    tokenizer = TextTokenizer(backend, name="words")
    tokens = tokenizer.encode("hellos world")
    assert tokenizer.decode(tokens) == "hellos world"
    assert b"".join(tokenizer.decode_bytes([token]) for token in tokens) == b" hellos world"
    assert tokenizer.byte_lengths()[tokens].tolist() == [6, 1, 6]


def test_byte_fallback_is_a_byte() -> None:
    tokenizer = TextTokenizer(unigram(), name="unigram")
    assert tokenizer.decode(tokenizer.encode("hello 日")) == "hello 日"


def test_what_bert_calls_its_ends_are_the_ends() -> None:
    tokenizer = TextTokenizer(word_piece(), name="bert")
    assert (tokenizer.bos_token, tokenizer.eos_token) == (1, 2)


def test_surrogates_and_bytes() -> None:
    assert BPE.decode(BPE.encode("a\ud800")) == "a?"
    assert BPE.decode(BPE.encode("é".encode())) == "é"
    with pytest.raises(ValueError, match="not UTF-8 at byte 1"):
        BPE.encode(b"a\xff")


@pytest.mark.parametrize("token", [-1, BPE.vocab_size])
def test_tokens_out_of_range_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.{BPE.vocab_size - 1}"):
        BPE.decode([1, token])


class TestLoading:
    def test_bytes_by_name_and_for_models_without_a_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"class": "LanguageModel"}')
        for path in (None, "bytes", tmp_path):
            assert load_tokenizer(path).digest == ByteTokenizer.digest

    @pytest.mark.parametrize("content", ['{"model_type": "bert"}', "{", "3"])
    def test_not_for_models_of_others(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"no tokenizer\.json in"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"{", r"JSON \("), (b"[]", "JSON object"), (b"{}", "no model"), (b'{"model": {"type": 1}}', "reads"), (b"\xff", "utf")],
        ids=["cut", "list", "empty", "unknown", "binary"],
    )
    def test_a_damaged_file_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content)
        for name in (path, tmp_path):
            with pytest.raises(ValueError, match=message) as error:
                load_tokenizer(name)
            assert str(path) in str(error.value)

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no such file or folder: .*none"):
            load_tokenizer(tmp_path / "none")
        with pytest.raises(ValueError, match=r"no tokenizer\.json in"):
            load_tokenizer(tmp_path)

    def test_an_older_folder_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.json").write_text("{")
        with pytest.raises(ValueError, match="transformers cannot read the tokenizer in"):
            load_tokenizer(tmp_path)
