"""`subq fill` as a user meets it."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import subquadratic as sq
from subquadratic.cli.fill import _text_as_flag, encode, split
from subquadratic.cli.main import main
from subquadratic.generation import fill

SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
SPECIAL = [256, 257, 258, 259]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of saved models. The masked one knows ASCII only, so that its text is text."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    masked = sq.FastformerConfig(**SMALL, causal=False)
    model = sq.LanguageModel(masked, vocab_size=128)
    with torch.no_grad():
        assert model.head is not None
        model.head.weight.mul_(20)
    model.save_pretrained(folder / "ascii")
    sq.LanguageModel(masked, vocab_size=260, max_length=16).save_pretrained(folder / "short")
    sq.LanguageModel(sq.PerformerConfig(**SMALL), vocab_size=260).save_pretrained(folder / "causal")
    sq.SequenceClassifier(masked, vocab_size=260, num_classes=2).save_pretrained(folder / "classifier")
    encoder, decoder = sq.TransformerConfig(**SMALL, causal=False), sq.PerformerConfig(**SMALL, cross_attention=True)
    sq.EncoderDecoder(encoder, decoder, vocab_size=260, max_length=20).save_pretrained(folder / "pairs")
    return folder


def expected(runs: Path, template: str, **options: Any) -> str:
    """The text filled by the library; `_` is a masked byte."""
    model = sq.LanguageModel.from_pretrained(runs / "ascii")
    tokens = torch.tensor([[0 if letter == "_" else ord(letter) for letter in template]])
    masked = torch.tensor([[letter == "_" for letter in template]])
    return bytes(fill(model, tokens, masked, **options)[0].tolist()).decode()


@pytest.mark.parametrize("flags", [[], ["--at_once"], ["--mask_text", "[MASK]"], ["--temperature", "0.8", "--seed", "5"]])
@pytest.mark.parametrize("how", ["word", "flag", "pipe"])
def test_the_text_is_what_the_library_fills_in(
    runs: Path, flags: list[str], how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the [MASK:2]t [MASK]at"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode() + b"\n")))
    words = {"word": [*flags, str(runs / "ascii"), text], "flag": [str(runs / "ascii"), "--text", text, *flags], "pipe": [*flags]}[how]
    assert main(["fill", *(words if how != "pipe" else [str(runs / "ascii"), "-", *flags])]) == 0
    options: dict[str, Any] = {"at_once": "--at_once" in flags}
    if "--seed" in flags:
        options |= {"temperature": 0.8, "generator": torch.Generator().manual_seed(5)}
    assert capsys.readouterr().out == expected(runs, "the __t _at", **options) + "\n"


def test_the_best_candidates_are_those_of_the_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", str(runs / "ascii"), "a[MASK]c[MASK]", "--top_k", "3", "--at_once", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = sq.LanguageModel.from_pretrained(runs / "ascii")
    masked = torch.tensor([[False, True, False, True]])
    probabilities = model(torch.tensor([[97, 0, 99, 0]]), masked=masked).softmax(-1)[0]
    assert [place["position"] for place in found["places"]] == [1, 3]
    for place in found["places"]:
        best = probabilities[place["position"]].topk(3)
        assert [candidate["token"] for candidate in place["candidates"]] == best.indices.tolist()
        assert [candidate["probability"] for candidate in place["candidates"]] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert place["token"] == best.indices[0]
        assert place["text"] == found["text"][place["position"]]
    assert main(["fill", str(runs / "ascii"), "a[MASK]c[MASK]", "--top_k", "2", "--at_once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("token ")] == ["token 2", "token 4"]
    assert f"{found['places'][0]['probability']:.1%}" in lines[-2]


def test_special_tokens_are_never_filled_in(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperature", "100", "--seed", "1", "--format", "json", "--top_k", "256"]
    assert main(["fill", str(runs / "short"), "[MASK:16]", *options]) == 0
    places = json.loads(capsys.readouterr().out)["places"]
    assert len(places) == 16
    for place in places:
        tokens = [candidate["token"] for candidate in place["candidates"]]
        assert sorted(tokens) == list(range(256))
        assert place["token"] < 256


def test_masks_are_found_in_the_text() -> None:
    assert split(b"a [MASK] b", "[MASK]") == [b"a ", 1, b" b"]
    assert split(b"[MASK:12][MASK]", "[MASK]") == [12, 1]
    assert split(b"[MASK:x] <m:2>", "<m>") == [b"[MASK:x] ", 2]
    assert split("é_ü_".encode(), "_") == ["é".encode(), 1, "ü".encode(), 1]
    assert split("a…b".encode(), "…") == [b"a", 1, b"b"]
    assert split(b"a.b", ".") == [b"a", 1, b"b"]  # no pattern, just text
    assert split(b"]:3]", "]") == [1, b":3", 1]


def test_the_text_may_stand_anywhere() -> None:
    assert _text_as_flag(["run", "a text"]) == ["run", "--text=a text"]
    assert _text_as_flag(["--seed", "1", "run", "--at_once", "a text"]) == ["--seed", "1", "run", "--at_once", "--text=a text"]
    assert _text_as_flag(["run", "--at_once", "false", "-"]) == ["run", "--at_once", "false", "--text=-"]
    assert _text_as_flag(["run", "--text", "x"]) == ["run", "--text", "x"]


BAD = [
    (["missing", "a [MASK]"], "run: no such folder"),
    (["causal", "a [MASK]"], "continues texts, and only a bidirectional one can fill in; use subq generate"),
    (["pairs", "a [MASK]"], "writes a target for a source"),
    (["classifier", "a [MASK]"], "is a classifier"),
    (["ascii"], "text is missing: give a text with [MASK]"),
    (["ascii", "no mask"], "text has no [MASK] in it"),
    (["ascii", "a [mask]"], "text has no [MASK] in it"),
    (["ascii", ""], "text has no [MASK] in it"),
    (["ascii", "[MASK:0]"], "must be from 1 to 1,000,000, got [MASK:0]"),
    (["ascii", "[MASK]", "more"], "one text only, got also 'more'"),
    (["ascii", "[MASK]", "--text", "[MASK]"], "the text is given twice"),
    (["ascii", "é[MASK]"], "text has the token 195"),
    (["ascii", "[MASK:1000001]"], "must be from 1 to 1,000,000"),
    (["ascii", "[MASK:" + "9" * 5000 + "]"], "must be from 1 to 1,000,000"),
    (["short", "[MASK:17]"], "text is too long: 17 tokens, and this model reads at most max_length=16"),
    (["short", "[MASK:1000000]"], "text is too long: 1,000,000 tokens"),
    (["ascii", "-"], "text: standard input is empty"),
    (["ascii", "[MASK]", "--mask_text", ""], "mask_text must be at least one character"),
    (["ascii", "[MASK]", "--top_k", "0"], "top_k must be at least 1"),
    (["ascii", "[MASK]", "--temperature", "-1"], "temperature must be at least 0"),
    (["ascii", "[MASK]", "--seed", "-1"], "seed must be from 0"),
    (["ascii", "[MASK]", "--topk", "1"], "did you mean --top_k?"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv)[:40] for argv, _ in BAD])
def test_bad_input_is_one_clear_line(
    runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["fill", str(runs / argv[0]), *argv[1:]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("subq fill: ")
    assert message in err


def test_the_space_before_a_masked_word_is_the_words(runs: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from subquadratic.cli.text_model import TextModel
    from subquadratic.data import load_tokenizer

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(["the cat sat on the mat " * 9], trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    model = sq.LanguageModel(sq.FastformerConfig(**SMALL, causal=False), vocab_size=tokenizer.vocab_size)
    tokens, masked = encode(TextModel(tmp_path, model, tokenizer, "masked"), [b"the cat ", 1, b" on"])
    assert tokens == tokenizer.encode("the cat").tolist() + [0] + tokenizer.encode(" on").tolist()
    assert sum(masked) == 1
    assert encode(TextModel(tmp_path, model, load_tokenizer(None), "masked"), [b"a ", 1])[0] == [97, 32, 0]
