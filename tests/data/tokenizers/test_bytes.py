import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data import ByteTokenizer

tokenizer = ByteTokenizer()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_as_it_went_in(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary())
def test_a_token_is_its_byte(data: bytes) -> None:
    tokens = tokenizer.encode(data)
    assert tokens.tolist() == list(data)
    assert tokenizer.decode_bytes(tokens) == data


def test_special_tokens_are_distinct_and_leave_no_text() -> None:
    special = [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token]
    assert sorted(special) == list(range(256, tokenizer.vocab_size))
    assert tokenizer.decode([104, *special, 105]) == "hi"


def test_broken_utf8_is_replaced_not_refused() -> None:
    assert tokenizer.decode(list("é".encode())[:1]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("\ud800")) == "?"


@pytest.mark.parametrize("token", [-1, 260])
def test_tokens_out_of_range_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.259"):
        tokenizer.decode([65, token])


def test_documents_are_joined_by_the_end_token() -> None:
    assert tokenizer.join([b"a", b"", b"b"]).tolist() == [97, 258, 258, 98]
    assert tokenizer.join([]).tolist() == []
    assert tokenizer.join([b"a"]).dtype == np.uint16
