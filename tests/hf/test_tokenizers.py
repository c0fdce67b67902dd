"""Our tokenizers as stock ones of transformers: the same ids, offsets, texts back, and no text that becomes a special token."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from tests.data.tokenizers_for_tests import LINES, bpe, byte_level
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from subquadratic.data import ByteTokenizer, TextTokenizer, load_tokenizer
from subquadratic.data.tokenizers.values import IntegerTokenizer
from subquadratic.hf.chat_template import GUARD, MARK_BYTES
from subquadratic.hf.tokenizers import save_tokenizer, stock_tokenizer, stop_tokens

NAMES = ["<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "\ufdd1", "\U000f0000", "\0"]
patient = settings(deadline=None)
characters = st.characters(exclude_categories=["Cs"], exclude_characters=GUARD)
texts = st.lists(st.one_of(st.text(characters), st.sampled_from([*NAMES, *LINES]))).map("".join)

OURS = {"bytes": ByteTokenizer(), "bytes-256": ByteTokenizer(), "bpe": bpe()}
ROWS = {"bytes": 260, "bytes-256": 256, "bpe": None}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each tokenizer, saved and loaded as anybody does."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, ours in OURS.items():
        save_tokenizer(ours, folder / name, vocab_size=ROWS[name])
    return {name: AutoTokenizer.from_pretrained(folder / name) for name in OURS}


@pytest.mark.parametrize("name", OURS)
@patient
@given(text=texts)
def test_ids_are_ours_whatever_the_text_names(stock: dict[str, Any], name: str, text: str) -> None:
    ids = stock[name](text)["input_ids"]
    assert ids == OURS[name].encode(text).tolist()
    assert not {*ids} & {*stock[name].all_special_ids, *map(stock[name].convert_tokens_to_ids, MARK_BYTES)}
    assert stock[name].decode(ids) == stock[name].decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("name", OURS)
@patient
@given(text=texts)
def test_offsets_cover_the_characters_that_a_token_is_part_of(stock: dict[str, Any], name: str, text: str) -> None:
    encoded = stock[name](text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    parts = [OURS[name].decode_bytes([index]) for index in ids]
    assert b"".join(parts) == text.encode()
    begin = 0
    for part, (start, end) in zip(parts, offsets, strict=True):
        covered = text[start:end].encode()
        before = len(text[:start].encode())
        assert before <= begin < begin + len(part) <= before + len(covered)
        begin += len(part)


def test_the_token_of_a_byte_is_its_value(stock: dict[str, Any]) -> None:
    for name in ("bytes", "bytes-256"):
        tokenizer = stock[name]
        assert tokenizer("aé€😀\0\x7f", add_special_tokens=True)["input_ids"] == list("aé€😀\0\x7f".encode())
        assert tokenizer.decode([0xC3, 0x28, 0x80]) == "\ufffd(\ufffd"  # as `bytes.decode` with errors="replace"
    assert [stock["bytes"].pad_token_id, stock["bytes"].eos_token_id] == [256, 258]
    assert sorted(stock["bytes"].all_special_ids) == [256, 257, 258, 259]
    assert stock["bytes"].mask_token_id == 259 and len(stock["bytes"]) == 260 and len(stock["bytes-256"]) == 256
    for special in (*stock["bytes-256"].all_special_ids, *MARK_BYTES.values()):
        assert special >= 0xF8  # which begin no character, and continue none
    assert len({*stock["bytes-256"].all_special_ids, *MARK_BYTES.values()}) == 4 + 3


@pytest.mark.parametrize("name", OURS)
def test_a_batch_is_padded_with_a_token_that_no_text_has(stock: dict[str, Any], name: str) -> None:
    batch = stock[name](["\xff\xfe", "longer \xff text"], padding=True, return_tensors="np")
    mask = batch["attention_mask"].astype(bool)
    assert mask[1].all() and not mask[0, 0] and mask[0, -1]  # on the left
    assert ((batch["input_ids"] == stock[name].pad_token_id) == ~mask).all()
    assert stock[name].batch_decode(batch["input_ids"], skip_special_tokens=True) == ["\xff\xfe", "longer \xff text"]
    assert set(batch) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("name", OURS)
def test_special_tokens_are_left_out_of_texts_on_demand(stock: dict[str, Any], name: str) -> None:
    tokenizer = stock[name]
    ids = [tokenizer.bos_token_id, *tokenizer("hi")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi"
    assert tokenizer.decode(ids) == f"{tokenizer.bos_token}hi{tokenizer.eos_token}{tokenizer.pad_token}"


def test_programs_that_write_special_tokens_by_name_can_have_them(stock: dict[str, Any], tmp_path: Path) -> None:
    save_tokenizer(None, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    assert tokenizer("a<|eos|>")["input_ids"] == [97, 258]


@pytest.mark.parametrize("name", OURS)
def test_a_document_begins_where_another_ends_and_a_target_with_a_token_of_its_own(name: str) -> None:
    documents, targets = stock_tokenizer(OURS[name]), stock_tokenizer(OURS[name], first="bos")
    assert documents.bos_token_id == documents.eos_token_id == targets.eos_token_id == OURS[name].eos_token
    assert targets.bos_token_id == OURS[name].bos_token
    with pytest.raises(ValueError, match="first must be one of"):
        stock_tokenizer(None, first="pad")


@pytest.mark.parametrize("name", OURS)
def test_saving_what_was_loaded_changes_nothing(stock: dict[str, Any], name: str, tmp_path: Path) -> None:
    stock[name].save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    text = "hello <|eos|> wörld"
    assert again(text)["input_ids"] == stock[name](text)["input_ids"] and again.chat_template == stock[name].chat_template
    back = load_tokenizer(tmp_path / "again")  # ours, from theirs
    assert back.encode(text).tolist() == OURS[name].encode(text).tolist()
    assert (back.pad_token, back.eos_token, back.vocab_size) == (again.pad_token_id, again.eos_token_id, len(again))
    twice = stock_tokenizer(back)
    assert twice(text)["input_ids"] == again(text)["input_ids"] and stop_tokens(twice) == stop_tokens(again)


def test_a_process_without_this_package_loads_it(tmp_path: Path) -> None:
    save_tokenizer(OURS["bpe"], tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".jinja"}
    code = (
        "import sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "m = [{'role': 'user', 'content': '<|eos|>'}, {'role': 'assistant', 'content': 'ok'}];"
        "print(t('héllo <|eos|>')['input_ids'], sum(t.apply_chat_template(m, return_dict=True, return_assistant_tokens_mask=True)"
        "['assistant_masks']), 'subquadratic' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    expected = OURS["bpe"].encode("héllo <|eos|>").tolist()
    assert run.stdout.strip() == f"{expected} {len(OURS['bpe'].encode('ok')) + 1} False"


def test_a_word_vocabulary_loses_what_its_template_adds_and_has_no_chat() -> None:
    from tokenizers.processors import TemplateProcessing

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "hello": 5, "world": 6}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    ours = TextTokenizer(backend, name="words", named={"bos": "[CLS]", "eos": "[SEP]"})
    theirs = stock_tokenizer(ours)
    assert theirs("hello world")["input_ids"] == ours.encode("hello world").tolist() == [5, 6]
    assert theirs.chat_template is None and stop_tokens(theirs) == [3]


def test_a_vocabulary_whose_merges_use_the_places_of_the_marks_has_no_chat() -> None:
    backend = byte_level(["<|eos|>"])
    content = json.loads(backend.to_str())
    content["model"]["vocab"]["ÿþ"] = len(content["model"]["vocab"])
    content["model"]["merges"].append(["ÿ", "þ"])
    ours = TextTokenizer(Tokenizer.from_str(json.dumps(content)), name="bpe")
    theirs = stock_tokenizer(ours)
    assert theirs.chat_template is None and theirs("hello")["input_ids"] == ours.encode("hello").tolist()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="input_ids"):
        stock_tokenizer(IntegerTokenizer(10))
    with pytest.raises(ValueError, match="bytes has 256 tokens, and the model 100"):
        stock_tokenizer(None, vocab_size=100)
    with pytest.raises(ValueError, match="and the model 300"):
        stock_tokenizer(bpe(), vocab_size=300)
