"""A distilled copy comes closer to the original, and opens as every model of transformers does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hf.distil.tiny import bert_in, gpt2_in, sentence_bert_in, text_in

from subquadratic.hf.attention.kept import SHIM
from subquadratic.hf.distil.run import Listener, distil

FEW: dict[str, Any] = {"budget": None, "batch_size": 16, "length": 32, "learning_rate": 1e-3, "longest": 128, "options": {"features": 8}}
BARE = """\
import json, os, sys, torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
assert "subquadratic" not in sys.modules
for source, (folder, again) in json.loads(sys.argv[1]).items():
    if child := os.fork():  # each has its own, in which only the libraries are loaded
        assert os.waitpid(child, 0)[1] == 0
        continue
    opened = AutoModelForCausalLM if source == "gpt2" else AutoModel
    model = opened.from_pretrained(folder, trust_remote_code=True)
    print(type(model).__name__, model.config._attn_implementation)
    model.save_pretrained(again)
    AutoTokenizer.from_pretrained(folder).save_pretrained(again)
    twice = opened.from_pretrained(again, trust_remote_code=True)
    tokens = torch.arange(4, 20)[None]
    torch.save([one(input_ids=tokens)[0] for one in (model, twice)], again + "/outputs.pt")
    break
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    bert_in(folder / "bert")
    sentence_bert_in(folder / "sentences")
    gpt2_in(folder / "gpt2")
    text_in(folder / "text")
    return folder


@pytest.fixture(scope="module")
def distilled(place: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Copies that were trained, and what was measured of them."""
    folders = {source: place / f"distilled-{source}" for source in ("bert", "gpt2")}
    return {source: (out, distil(place / source, out, data=str(place / "text"), steps=60, **FEW)) for source, out in folders.items()}


@pytest.mark.parametrize("source", ["bert", "gpt2"])
def test_training_brings_the_copy_closer(distilled: dict[str, tuple[Path, dict[str, Any]]], source: str) -> None:
    out, result = distilled[source]
    before, after = result["swapped"], result["distilled"]
    if source == "bert":
        assert after["cosine"] > before["cosine"] + 0.3 * (1 - before["cosine"])
        assert after["spearman"] > before["spearman"]
    else:
        assert after["divergence"] < 0.7 * before["divergence"]
        assert after["agreement"] > before["agreement"]
    assert json.loads((out / "distil.json").read_text())["distilled"] == after


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin where another is")
def test_a_bare_process_opens_the_copies(distilled: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    asked = {source: [str(out), str(tmp_path / source)] for source, (out, _) in distilled.items()}
    done = subprocess.run([sys.executable, "-c", BARE, json.dumps(asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["BertModel subquadratic_favor", "GPT2LMHeadModel subquadratic_favor"]

    from transformers import AutoModel, AutoModelForCausalLM  # here the package is imported: no flag is needed

    for source, (out, again) in asked.items():
        first, second = torch.load(Path(again) / "outputs.pt")
        assert torch.equal(first, second)
        model = (AutoModelForCausalLM if source == "gpt2" else AutoModel).from_pretrained(out)
        assert torch.allclose(model(input_ids=torch.arange(4, 20)[None])[0], first, atol=1e-5)
        assert model.config.subquadratic_attention["features"] == 8


def test_layers_one_by_one_learn_by_themselves(place: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    listener = Listener(step=lambda **values: losses.append(values["loss"]))
    distil(place / "bert", tmp_path / "out", data=str(place / "text"), steps=40, layerwise=1.0, listener=listener, **FEW)
    assert len(losses) == 40
    assert losses[-1] < 0.8 * losses[0]


def test_the_rest_of_a_folder_of_sentence_transformers_comes_along(place: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    out = tmp_path / "out"
    distil(place / "sentences", out, data=str(place / "text"), steps=2, **FEW)
    texts = ["the people write a number", "water is what they use"]
    ours, theirs = (sentence_transformers.SentenceTransformer(str(folder)) for folder in (out, place / "sentences"))
    vectors = [torch.tensor(model.encode(texts)) for model in (ours, theirs)]
    assert ours[0].auto_model.config._attn_implementation == "subquadratic_favor"
    assert 0.3 < torch.cosine_similarity(*vectors).mean() < 0.99999
    modes = {path.name: path.stat().st_mode & 0o777 for path in (out, out / "config.json", out / "model.safetensors")}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {"out": 0o777 & ~umask, "config.json": 0o666 & ~umask, "model.safetensors": 0o666 & ~umask}
    names = {path.name for path in out.iterdir()}
    assert {"modules.json", "1_Pooling", "tokenizer.json", "config.json", "model.safetensors", SHIM} <= names


def test_an_interrupted_training_leaves_a_model_and_goes_on(place: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    listener = Listener(step=lambda **values: seen.append(values["step"]), stop=lambda: len(seen) >= 7)
    out = tmp_path / "out"
    result = distil(place / "bert", out, data=str(place / "text"), steps=1000, listener=listener, **FEW)
    assert result["interrupted"]
    assert sum(result["steps"].values()) == 7
    more = distil(place / "bert", tmp_path / "more", data=str(place / "text"), steps=1, weights=out, seed=5, **FEW)
    assert more["options"]["seed"] == 0  # of the projections, to which the weights belong
    texts = {"data": str(place / "text"), "weights": out, "steps": 1}
    again = distil(place / "bert", tmp_path / "again", **texts, **FEW)
    assert again["swapped"] == pytest.approx(result["distilled"], abs=1e-5)


def test_the_same_seed_gives_the_same_model(place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        distil(place / "bert", tmp_path / name, data=str(place / "text"), steps=4, seed=3, **FEW)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_what_stands_in_the_folder_is_never_lost(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    distil(place / "bert", out, data=str(place / "text"), steps=1, **FEW)
    first = (out / "model.safetensors").read_bytes()
    distil(place / "bert", out, data=str(place / "text"), steps=5, **FEW)  # an earlier result gives way
    assert (out / "model.safetensors").read_bytes() != first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="would be lost"):
        distil(place / "bert", out, data=str(place / "text"), steps=1, **FEW)
    assert (out / "notes.txt").read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("attention", ["window", "linformer"])
def test_other_attention(place: Path, tmp_path: Path, attention: str) -> None:
    options = {"features": 8, "window": 3, "slots": 3}
    few = {**FEW, "options": options}
    result = distil(place / "bert", tmp_path / "out", data=str(place / "text"), steps=40, attention=attention, **few)
    assert result["distilled"]["cosine"] > result["swapped"]["cosine"]


def test_linformer_is_refused_for_a_language_model(place: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="causal"):
        distil(place / "gpt2", tmp_path / "out", data=str(place / "text"), steps=1, attention="linformer", **FEW)
    assert not (tmp_path / "out").exists()
