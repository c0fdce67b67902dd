"""Text around tokens: stop texts, characters of several bytes, tokenizers of any kind."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import subquadratic as sq
from subquadratic.data import ByteTokenizer, load_tokenizer
from subquadratic.generation import StopSearch, generate_text
from subquadratic.generation.text import RowText, left_padded, prompt_tokens

fast = settings(max_examples=100, deadline=None)
BYTES = ByteTokenizer()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(borders)]


@fast
@given(st.text("ab-", max_size=20), st.lists(st.text("ab-", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 20), max_size=20))
def test_a_stop_text_never_comes_out_however_the_text_is_cut(text: str, stops: list[str], places: list[int]) -> None:
    search = StopSearch(stops)
    fed, out = b"", b""
    for part in cut(text.encode(), places):
        if not search.found:
            fed += part
        out += search.feed(part)
        assert search.found == any(stop.encode() in fed for stop in stops)
        assert fed.startswith(out)
    out += search.flush()
    assert not any(stop.encode() in out for stop in stops)
    first = min((fed.find(stop.encode()) for stop in stops if stop.encode() in fed), default=len(fed))
    assert out == fed[:first]


@fast
@given(st.text(max_size=30), st.integers(1, 3))
def test_pieces_joined_are_the_whole_text(text: str, seed: int) -> None:
    row = RowText(BYTES, stop=["\x00no such text\x00" * seed])
    tokens = BYTES.encode(text).tolist()
    pieces = [piece for token in tokens for piece in row.feed(token)] + row.finish()
    assert b"".join(piece.data for piece in pieces) == BYTES.decode_bytes(tokens)
    assert [piece.token for piece in pieces] == tokens


def test_a_token_that_a_stop_text_cuts_gives_its_beginning(tmp_path: Path) -> None:
    class Words(ByteTokenizer):
        def decode_bytes(self, tokens: Any) -> bytes:
            return b"".join([b"one, ", b"two. ", b"END"][int(token)] for token in tokens)

    row = RowText(Words(), stop=["o. E"])
    pieces = row.feed(0, -1.0) + row.feed(1, -2.0) + row.feed(2, -3.0) + row.feed(0, -4.0) + row.finish()
    assert [(piece.data, piece.log_prob) for piece in pieces] == [(b"one, ", -1.0), (b"tw", -2.0)]
    assert row.end == "stop"


def test_the_end_token_ends_a_row_without_text() -> None:
    row = RowText(BYTES, eos_token=258)
    pieces = row.feed(65) + row.feed(258) + row.feed(66) + row.finish()
    assert [(piece.token, piece.data) for piece in pieces] == [(65, b"A"), (258, b"")]
    assert row.end == "eos"


def test_tokens_beyond_the_tokenizer_have_no_text() -> None:
    assert [piece.data for piece in RowText(BYTES).feed(300)] == [b""]


def test_prompts_of_several_lengths_are_padded_on_the_left() -> None:
    tokens, mask = left_padded([torch.tensor([1, 2, 3]), torch.tensor([4])], torch.device("cpu"))
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask is not None
    assert mask.tolist() == [[True, True, True], [False, False, True]]
    assert left_padded([torch.tensor([1])], torch.device("cpu"))[1] is None


def test_the_beginning_of_a_document_comes_after_an_end() -> None:
    assert prompt_tokens(BYTES, "", 260).tolist() == [258]
    assert prompt_tokens(BYTES, "", 256).tolist() == [10]
    with pytest.raises(ValueError, match=r"token 195 \('\\\\xc3'\), but the model knows 128 tokens"):
        prompt_tokens(BYTES, "é", 128)


def model(vocabulary: int) -> sq.LanguageModel:
    return sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2), vocab_size=vocabulary).eval()


def test_texts_alone_and_together_are_the_same() -> None:
    lm = model(260)
    alone = [generate_text(lm, BYTES, text, max_new_tokens=9, temperature=0.0) for text in ("abc", "", "é")]
    assert generate_text(lm, BYTES, ["abc", "", "é"], max_new_tokens=9, temperature=0.0) == alone
    doubled = generate_text(lm, BYTES, ["abc", ""], max_new_tokens=9, temperature=0.0, samples=2)
    assert doubled == [[alone[0]] * 2, [alone[1]] * 2]
    assert generate_text(lm, BYTES, []) == []


def test_a_stop_text_cuts_the_text() -> None:
    lm = model(128)  # whose tokens are all characters
    free = generate_text(lm, BYTES, "abc", max_new_tokens=30, generator=torch.Generator().manual_seed(5), top_k=20)
    stop = free[7:9]
    out = generate_text(lm, BYTES, "abc", max_new_tokens=30, generator=torch.Generator().manual_seed(5), top_k=20, stop=[stop])
    assert out == free[: free.index(stop)]


@pytest.fixture
def words(tmp_path: Path) -> Any:
    """A tokenizer that puts a space before every text, as sentencepiece ones do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<s>", "</s>", *alphabet], show_progress=False)
    backend.train_from_iterator(["the cat sat on the mat and the dog too " * 5], trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path)


def test_any_tokenizer_gives_the_text_that_it_decodes(words: Any) -> None:
    lm = model(words.vocab_size)
    text = generate_text(lm, words, "the cat", max_new_tokens=12, temperature=0.0)
    tokens = lm.generate(torch.from_numpy(words.encode("the cat").astype("int64"))[None], max_new_tokens=12, temperature=0.0)
    new = tokens[0, len(words.encode("the cat")) :].tolist()
    new = new[: new.index(words.eos_token)] if words.eos_token in new else new
    assert text == words.decode_bytes(new).decode(errors="replace")


def test_a_space_before_every_text_is_taken_off_at_a_beginning(words: Any) -> None:
    tokens = words.encode("the dog").tolist()
    assert words.decode_bytes(tokens) == b" the dog"
    for first, expected in ((True, b"the dog"), (False, b" the dog")):
        row = RowText(words, first=first)
        assert b"".join(piece.data for token in tokens for piece in row.feed(token)) == expected
