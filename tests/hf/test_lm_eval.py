"""lm-eval: what it says of a model of ours is what we say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import subquadratic as sq
from subquadratic.generation.decode import generate
from subquadratic.hf.serve import open_folder
from subquadratic.hf.tokenizers import save_tokenizer

SMALL = dict(dim=16, depth=1, heads=2)
CONFIGS: dict[str, sq.BackboneConfig] = {
    "performer": sq.PerformerConfig(**SMALL, local_heads=1, local_window=4, token_shift=True),
    "linformer": sq.LinformerConfig(**SMALL, max_length=64, slots=4),
    "fastformer": sq.FastformerConfig(**SMALL),
    "feedback_transformer": sq.FeedbackTransformerConfig(**SMALL, memory_length=8),
    "gated_linear": sq.GatedLinearConfig(**SMALL),
    "perceiver_ar": sq.PerceiverARConfig(**SMALL, latents=6),
    "transformer": sq.TransformerConfig(**SMALL),
}
PAIRS = [("the quick", " brown fox"), ("a", "b"), ("", "the start of a document"), ("héllo wörld, how are you", " today <|eos|>?")]
TASK = """\
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def saved(name: str, folder: Path) -> Any:
    """A model of ours that is sure of something, in a folder."""
    model = sq.LanguageModel(CONFIGS[name], vocab_size=260)
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(20)
    model.save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def log_likelihood(model: Any, context: str, continuation: str) -> tuple[float, bool]:
    """The same, token by token from our own state."""
    first, last = list(context.encode()) or [258], list(continuation.encode())  # a document begins where another has ended
    state, total, right, logits = model.init_state(1), 0.0, True, torch.zeros(260)
    for place, token in enumerate([*first, *last]):
        if place >= len(first):
            total += float(logits.log_softmax(-1)[token])
            right = right and int(logits.argmax()) == token
        answer, state = model.extend(torch.tensor([[token]]), state)
        logits = answer[0, -1]
    return total, right


@pytest.mark.parametrize("name", CONFIGS)
def test_log_likelihoods_are_ours(name: str, tmp_path: Path) -> None:
    """lm-eval pads on the right with the token 0, and gives no mask."""
    ours = saved(name, tmp_path)
    model, tokenizer = open_folder(tmp_path)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=len(PAIRS))
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(PAIRS)]
    found = theirs.loglikelihood(requests, disable_tqdm=True)
    expected = [log_likelihood(ours, *pair) for pair in PAIRS]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-4, abs=1e-3)
    assert [right for _, right in found] == [right for _, right in expected]
    if name != "perceiver_ar":  # which scores its last latents only
        tokens = torch.tensor([list("".join(PAIRS[0]).encode())])
        scored = torch.arange(tokens.shape[1])[None] >= len(PAIRS[0][0])
        assert found[0][0] == pytest.approx(-float(ours.token_losses(tokens, scored=scored)[0].sum()), rel=1e-4)


@pytest.mark.parametrize("name", ["performer", "gated_linear"])
def test_whole_texts_and_generated_ones_are_ours(name: str, tmp_path: Path) -> None:
    ours = saved(name, tmp_path)
    model, tokenizer = open_folder(tmp_path)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=16)
    text = "a text that is longer than what is read at once"
    [rolling] = theirs.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    assert len(text) == 47  # the last window is as long as the others: what it reads again is not counted again
    windows = [("", text[:16]), (text[15], text[16:32]), (text[30:32], text[32:])]
    assert rolling == pytest.approx(sum(log_likelihood(ours, *window)[0] for window in windows), rel=1e-4)

    asked = [("short", {"until": [], "max_gen_toks": 6}), ("a longer text", {"until": [], "max_gen_toks": 6})]
    answers = theirs.generate_until([Instance("generate_until", {}, each, number) for number, each in enumerate(asked)], disable_tqdm=True)
    for (prompt, _), answer in zip(asked, answers, strict=True):
        tokens = generate(ours, torch.tensor([list(prompt.encode())]), max_new_tokens=6, temperature=0.0)[0, len(prompt) :]
        assert answer == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[float]]:
    """A folder with `model/`, as it is given away, and `tasks/`, a task of three rows; what the choices in each row are worth."""
    pytest.importorskip("datasets")
    ours = saved("performer", tmp_path / "model")
    save_tokenizer(None, tmp_path / "model", vocab_size=260)
    choices = ["blue", "a fish", "7"]
    rows = [{"question": "the sky is", "choices": choices, "answer": answer} for answer in (0, 1, 2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.replace("DATA", str(tmp_path / "rows.jsonl")))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path, [log_likelihood(ours, "the sky is", f" {choice}")[0] for choice in choices]


def check(samples: list[dict[str, Any]], expected: list[float]) -> None:
    assert len(samples) == 3
    for sample in samples:
        assert [float(value[0]) for value in sample["filtered_resps"]] == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_folder_is_scored_on_a_task_of_ones_own(task: tuple[Path, list[float]]) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    place, expected = task
    tasks = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    arguments = f"pretrained={place / 'model'},trust_remote_code=True"
    found = lm_eval.simple_evaluate("hf", model_args=arguments, tasks=["tiny"], task_manager=tasks, device="cpu", bootstrap_iters=0)
    check(found["samples"]["tiny"], expected)
    assert found["results"]["tiny"]["acc,none"] == pytest.approx(1 / 3)  # each choice is right once


@pytest.mark.slow  # it looks through thousands of tasks first
def test_the_command_does_the_same(task: tuple[Path, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.__main__ import cli_evaluate

    place, expected = task
    arguments = f"pretrained={place / 'model'},trust_remote_code=True"
    folders = ["--include_path", str(place / "tasks"), "--output_path", str(place / "out")]
    command = [
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--model_args",
        arguments,
        "--tasks",
        "tiny",
        "--device",
        "cpu",
        "--log_samples",
        *folders,
    ]
    monkeypatch.setattr(sys, "argv", command)
    cli_evaluate()
    check([json.loads(line) for path in (place / "out").rglob("samples_tiny*.jsonl") for line in path.read_text().splitlines()], expected)
