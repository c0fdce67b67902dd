"""Every example runs, at a small setting, and does what its docstring says: what it reports is held against the task itself."""

import ast
import importlib.util
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples"
FILES = sorted(FOLDER.glob("*.py"))


def load(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_byte_language_model_learns_more_than_frequencies() -> None:
    figures = load("byte_language_model").main(["--steps", "25"])
    assert 7 < figures["before"] < 10
    assert figures["after"] < figures["frequencies"] + 0.3 < 5.5


def test_long_documents_learn_and_padding_changes_nothing() -> None:
    figures = load("long_document_classification").main(["--steps", "60", "--length", "150"])
    assert figures["after"] > 0.9
    assert figures["padding"] < 1e-5


def test_seq2seq_answers_are_the_sorted_digits() -> None:
    example = load("seq2seq")
    message, answer = example.make_batch(5, 40, torch.Generator().manual_seed(0))
    for row, digits in zip(message.tolist(), answer.tolist(), strict=True):
        assert digits[1:-1] == sorted(symbol for symbol in row if symbol >= example.LETTERS)
        assert (digits[0], digits[-1]) == (example.BEGIN, example.END)
    figures = example.main(["--steps", "120", "--length", "12"])
    assert figures["after"] > 0.2 > figures["before"]


def test_genome_finds_the_strands_with_sites() -> None:
    figures = load("genome").main(["--steps", "40", "--length", "150"])
    assert figures["after"] > max(0.8, figures["before"])


def test_genome_counts_the_same_bases_in_both_classes() -> None:
    words, labels = load("genome").make_batch(400, 200, torch.Generator().manual_seed(0))
    first = torch.nn.functional.one_hot(words % 4, 4).double().mean(dim=1)  # the first base of each word
    assert torch.allclose(first[labels == 0].mean(dim=0), first[labels == 1].mean(dim=0), atol=0.02)


def test_drop_in_layers_learn_with_a_mask() -> None:
    results = load("drop_in_layer").main(["--steps", "40"])
    for before, after, padding in results.values():
        assert after > before
        assert padding < 1e-5
    assert results["window"][1] > 0.8


def test_streaming_finds_the_corrupted_line_in_constant_memory() -> None:
    found = load("streaming_inference").main(["--steps", "40"])
    assert len(found["sizes"]) == 1
    assert found["found"] == found["odd"]


def test_streaming_scores_do_not_depend_on_the_pieces() -> None:
    example = load("streaming_inference")
    import random
    import socket

    torch.manual_seed(0)
    model = example.train(1, random.Random(0))
    lines = [example.make_line(random.Random(1)) for _ in range(5)]
    bits = []
    for seed in (1, 2):
        ours, theirs = socket.socketpair()
        example.send(theirs, lines, random.Random(seed))
        bits.append(torch.tensor(example.scores(model, ours)[0]))
        ours.close()
    assert bits[0].shape == (sum(map(len, lines)),)
    assert torch.allclose(bits[0], bits[1], atol=1e-3)


@pytest.mark.parametrize("installed", [True, False], ids=["package", "twin"])
def test_converted_checkpoints_give_the_same_logits(
    installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "linformer", None)
    assert load("convert_checkpoint").main(["--length", "50"])["difference"] < 1e-5
    assert ("published package" if installed else "its twin") in capsys.readouterr().out


def test_feedback_memory_is_carried_and_counts() -> None:
    example = load("feedback_truncated_bptt")
    stream = example.make_stream(3, torch.Generator().manual_seed(0))
    secret, pairs = stream[:, :1] - example.DIGITS, stream[:, 2:].unflatten(1, (-1, 2))
    assert torch.equal((pairs[..., 0] + secret) % example.DIGITS, pairs[..., 1])
    example.DIGITS = 3  # is learned sooner
    figures = example.main(["--steps", "20"])
    assert figures["carried"] > figures["forgotten"] + 0.2


def test_an_adapter_learns_the_manual_and_leaves_the_code() -> None:
    pytest.importorskip("peft")
    figures = load("peft_lora").main(["--steps", "12"])
    assert figures["after"] < figures["before"] - 0.1
    assert figures["off"] == pytest.approx(figures["code"], abs=1e-3)
    assert figures["difference"] < 1e-4 < figures["share"] < 0.2


def test_packed_examples_teach_completions_and_stay_apart() -> None:
    pytest.importorskip("trl")
    figures = load("trl_sft").main(["--steps", "12"])
    assert figures["after"] < figures["before"] - 1
    assert figures["examples"] > 4 and figures["difference"] < 1e-4


@pytest.mark.slow  # three exports
def test_an_exported_model_reads_and_writes_without_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    figures = load("onnx_runtime").main(["--steps", "8"])
    assert figures["difference"] < 1e-4 and figures["onnx"] == pytest.approx(figures["torch"], abs=1e-4)
    assert "def __init__(" in capsys.readouterr().out


def test_a_served_model_writes_the_same_to_every_client(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    before = threading.active_count()
    figures = load("serve_openai").main(["--steps", "8"])
    assert figures["parts"] > 10 and figures["same"]
    assert "/v1 has tiny" in capsys.readouterr().out
    deadline = time.monotonic() + 20  # beside other work, threads that have been told to end may take a while
    while threading.active_count() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before + 1, threading.enumerate()  # the server's is gone, one of PyTorch's may stay


@pytest.mark.slow
@pytest.mark.parametrize(("name", "better", "worse"), [("seq2seq", "after", "before"), ("feedback_truncated_bptt", "carried", "forgotten")])
def test_the_slower_ones_learn_at_their_own_setting(name: str, better: str, worse: str) -> None:
    figures = load(name).main([])
    assert figures[better] > 0.85 and figures[worse] < 0.3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_what_they_show(path: Path) -> None:
    text = path.read_text()
    assert "Prints" in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) < 80


def test_an_example_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, FOLDER / "genome.py", "--steps", "1", "--length", "150"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy on 200 new strands" in done.stdout
