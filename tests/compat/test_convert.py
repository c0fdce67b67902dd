"""Published checkpoints through convert_checkpoint and load; compat models through upgrade."""

import argparse
import importlib
import json
import stat
from pathlib import Path
from typing import Any

import performer_pytorch
import pytest
import torch
from torch import Tensor, nn

from subquadratic import compat
from subquadratic.compat import convert_checkpoint, load, upgrade

COMMON = dict(num_tokens=20, dim=16, depth=2, heads=2)
PERFORMER = dict(COMMON, max_seq_len=24, dim_head=8)
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [  # package, class, options, what shapes do not tell
    ("linformer", "LinformerLM", dict(COMMON, seq_len=24, k=5), dict(heads=2)),
    ("linformer", "LinformerLM", dict(COMMON, seq_len=24, k=5, share_kv=True, reversible=True, dim_head=6), dict(dim_head=6)),
    ("linformer", "LinformerLM", dict(COMMON, seq_len=24, k=5, one_kv_head=True), {}),
    ("fast_transformer_pytorch", "FastTransformer", dict(COMMON, max_seq_len=24, dim_head=8, ff_mult=2), dict(max_seq_len=24)),
    ("fast_transformer_pytorch", "FastTransformer", dict(COMMON, max_seq_len=24, dim_head=8, absolute_pos_emb=True), {}),
    ("feedback_transformer_pytorch", "FeedbackTransformer", dict(COMMON, mem_len=4, dim_head=8, seq_len=1), dict(mem_len=4)),
    ("feedback_transformer_pytorch", "FeedbackTransformer", dict(COMMON, mem_len=4, dim_head=8, keep_last_hidden=True),
     dict(mem_len=4, seq_len=2, keep_last_hidden=True)),
    ("perceiver_ar_pytorch", "PerceiverAR", dict(COMMON, max_seq_len=24, cross_attn_seq_len=8, dim_head=32, ff_mult=2.5),
     dict(cross_attn_seq_len=8, heads=2)),
    ("perceiver_ar_pytorch", "PerceiverAR", dict(COMMON, max_seq_len=24, cross_attn_seq_len=8, dim_head=68, perceive_depth=2),
     dict(cross_attn_seq_len=8)),
    ("performer_pytorch", "PerformerLM", dict(PERFORMER, reversible=True, ff_glu=True, nb_features=9, qkv_bias=True), dict(causal=False)),
    ("performer_pytorch", "PerformerLM", dict(PERFORMER, tie_embed=True, rotary_position_emb=False, use_scalenorm=True, ff_mult=2,
     generalized_attention=True), dict(causal=False, generalized_attention=True)),
    ("performer_pytorch", "PerformerLM", dict(PERFORMER, rotary_position_emb=False, axial_position_emb=True, axial_position_shape=(4, 6),
     use_rezero=True, shift_tokens=True, attn_out_bias=True, no_projection=True), dict(causal=False, no_projection=True)),
    ("performer_pytorch", "PerformerLM", dict(PERFORMER, local_attn_heads=(0, 1), local_window_size=8),
     dict(causal=False, local_attn_heads=(0, 1), local_window_size=8)),
]  # fmt: skip


def published(package: str, name: str, **options: Any) -> nn.Module:
    return getattr(importlib.import_module(package), name)(**options).eval()


def outputs(model: nn.Module, tokens: Tensor) -> Tensor:
    masked = "Performer" in type(model).__name__ or "FastTransformer" in type(model).__name__
    with torch.no_grad():
        return model(tokens, mask=torch.ones_like(tokens, dtype=torch.bool)) if masked else model(tokens)


def difference(reference: Tensor, value: Tensor) -> float:
    return ((reference - value).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt().clamp_min(1e-12)).item()


def linformer(**options: Any) -> nn.Module:
    return published("linformer", "LinformerLM", **dict(dict(COMMON, seq_len=24, k=5), **options))


@pytest.mark.parametrize(("package", "name", "options", "hints"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_converted_model_gives_the_same_outputs(package: str, name: str, options: dict, hints: dict, tmp_path: Path) -> None:
    reference = published(package, name, **options)
    torch.save(reference.state_dict(), tmp_path / "old.pt")
    spelled = {key: json.dumps(value) for key, value in hints.items()}  # as from a command line
    folder = convert_checkpoint(tmp_path / "old.pt", package, tmp_path / "new", **spelled)
    model = load(folder)
    assert type(model).__module__.startswith(f"subquadratic.compat.{package}")
    tokens = torch.randint(0, 20, (2, 24))
    assert difference(outputs(reference, tokens), outputs(model, tokens)) < 1e-5
    saved = json.loads((folder / "config.json").read_text())
    assert saved["model_type"] == f"compat.{package}.{name}"
    for key, value in options.items():
        found = saved["options"][key]
        assert (tuple(found) if isinstance(found, list) else found) == value
    for key in set(hints) - {
        "generalized_attention",
        "no_projection",
        "keep_last_hidden",
        "dim_head",
    }:  # those are assumed, or stand for another
        with pytest.raises(ValueError, match=f"do not tell .*{key}"):
            convert_checkpoint(tmp_path / "old.pt", package, tmp_path / "other", **{name: hints[name] for name in hints if name != key})
    assert not (tmp_path / "other").exists()


def test_encoder_decoder(tmp_path: Path) -> None:
    side = dict(num_tokens=20, max_seq_len=24, depth=1, heads=2, dim_head=8, rotary_position_emb=False)
    for tie in (False, True):
        reference = published(
            "performer_pytorch", "PerformerEncDec", dim=16, tie_token_embeds=tie, enc_reversible=True,
            **{f"enc_{name}": value for name, value in side.items()}, **{f"dec_{name}": value for name, value in side.items()},
        )  # fmt: skip
        torch.save({"module." + name: value for name, value in reference.state_dict().items()}, tmp_path / "old.pt")
        model = load(convert_checkpoint(tmp_path / "old.pt", "performer_pytorch", tmp_path / f"{tie}"))
        assert type(model).__name__ == "PerformerEncDec"
        source, target, mask = torch.randint(0, 20, (2, 11)), torch.randint(0, 20, (2, 2)), torch.ones(2, 11, dtype=torch.bool)
        with torch.no_grad():
            losses = [each(source, target, enc_mask=mask).item() for each in (reference, model)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(ValueError, match="enc_head"):
        convert_checkpoint(tmp_path / "old.pt", "performer_pytorch", tmp_path / "other", enc_head=2)


def test_a_causal_decoder_in_its_wrapper(tmp_path: Path) -> None:
    reference = published("performer_pytorch", "PerformerLM", **PERFORMER, causal=True)
    wrapped = performer_pytorch.AutoregressiveWrapper(reference)
    torch.save(
        {"epoch": 3, "model": wrapped.state_dict(), "optimizer": torch.optim.Adam(wrapped.parameters()).state_dict()}, tmp_path / "old.pt"
    )
    model = load(convert_checkpoint(tmp_path / "old.pt", "performer_pytorch", tmp_path / "new"))
    tokens = torch.randint(0, 20, (2, 24))
    assert difference(outputs(reference, tokens), outputs(model, tokens)) < 2e-3  # the published one sees the future
    assert json.loads((tmp_path / "new/config.json").read_text())["assumed"] == [
        "causal", "cross_attend", "generalized_attention", "no_projection",
    ]  # fmt: skip
    bidirectional = convert_checkpoint(tmp_path / "old.pt", "performer_pytorch", tmp_path / "two", causal=False)
    assert json.loads((bidirectional / "config.json").read_text())["options"]["causal"] is False


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "ema": {name: value + 1 for name, value in state.items()}},
    lambda state: {"epoch": 1, "inner": {"weights": {"module._orig_mod." + name: value for name, value in state.items()}}},
    lambda state: {"anything": {"lit." + name: value for name, value in state.items()}, "optimizer": {0: {"step": torch.ones(1)}}},
])  # fmt: skip
def test_where_a_checkpoint_keeps_its_model(wrap: Any, tmp_path: Path) -> None:
    reference = linformer()
    torch.save(wrap(reference.state_dict()), tmp_path / "old.pt")
    model = load(convert_checkpoint(tmp_path / "old.pt", "linformer", tmp_path / "new", heads=2))
    tokens = torch.randint(0, 20, (2, 9))
    assert difference(outputs(reference, tokens), outputs(model, tokens)) < 1e-5


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(linformer().state_dict(), tmp_path / "old.safetensors")
    convert_checkpoint(tmp_path / "old.safetensors", "linformer", tmp_path / "new", heads=2)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="damaged"):
        convert_checkpoint(tmp_path / "bad.safetensors", "linformer", tmp_path / "two")


def test_unreadable_files(tmp_path: Path) -> None:
    def attempt(name: str = "old.pt", package: str = "linformer", **hints: Any) -> None:
        convert_checkpoint(tmp_path / name, package, tmp_path / "new", **hints)

    model = linformer()
    old = tmp_path / "old.pt"
    with pytest.raises(FileNotFoundError, match=r"no such file: .*old\.pt"):
        attempt()
    torch.save(model, old)
    with pytest.raises(ValueError, match=r"Python objects \(linformer\.linformer\.LinformerLM\).*save model\.state_dict\(\)"):
        attempt()
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(k=5)}, old)
    with pytest.raises(ValueError, match=r"Python objects \(argparse\.Namespace\)"):
        attempt()
    torch.save(model.state_dict(), old)
    whole = old.read_bytes()
    for damaged in (b"", b"rubbish" * 99, whole[: len(whole) // 2]):
        old.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a PyTorch checkpoint, or is damaged"):
            attempt()
    for content in ([1, 2], {"epoch": 1}, 7):
        torch.save(content, old)
        with pytest.raises(ValueError, match="holds no state dict"):
            attempt()
    torch.save({"a.weight": torch.zeros(2)}, old)
    with pytest.raises(ValueError, match=r"not a checkpoint of a model of linformer: its tensors are a\.weight"):
        attempt()
    assert not (tmp_path / "new").exists()


def test_wrong_package_option_or_weights(tmp_path: Path) -> None:
    def attempt(package: str = "linformer", **hints: Any) -> None:
        convert_checkpoint(tmp_path / "old.pt", package, tmp_path / "new", **hints)

    state = linformer().state_dict()
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="is a checkpoint of linformer"):
        attempt("performer_pytorch")
    with pytest.raises(ValueError, match="did you mean 'performer_pytorch'"):
        attempt("performer-pytorch")
    with pytest.raises(ValueError, match="do not tell heads"):
        attempt()
    with pytest.raises(ValueError, match="heads must divide 16"):
        attempt(heads=3)
    with pytest.raises(ValueError, match="did you mean 'heads'"):
        attempt(heads=2, head=2)
    with pytest.raises(ValueError, match="seq_len=12 contradicts the checkpoint, whose shapes say seq_len=24"):
        attempt(heads=2, seq_len=12)
    torch.save(dict(state, extra=torch.ones(1)), tmp_path / "old.pt")
    with pytest.raises(ValueError, match="extra"):
        attempt(heads=2)
    torch.save({name: value for name, value in state.items() if name != "linformer.net.layers.1.0.norm.bias"}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"Missing key.*layers\.1\.0\.norm\.bias"):
        attempt(heads=2)
    torch.save({name: value for name, value in state.items() if not name.endswith("to_q.weight")}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="is incomplete"):
        attempt(heads=2)
    torch.save({"model." + name: value for name, value in state.items()} | {"critic.weight": torch.ones(2)}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"tensors that are not part of it: critic\.weight"):
        attempt(heads=2)
    assert not (tmp_path / "new").exists()


def test_the_folder(tmp_path: Path) -> None:
    torch.save(linformer().state_dict(), tmp_path / "old.pt")
    out = tmp_path / "deep" / "new"
    convert_checkpoint(tmp_path / "old.pt", "linformer", out, heads=2)
    assert sorted(file.name for file in out.parent.iterdir()) == ["new"]
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(tmp_path.joinpath("deep").stat().st_mode)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_checkpoint(tmp_path / "old.pt", "linformer", out, heads=2)
    other = linformer()
    torch.save(other.state_dict(), tmp_path / "old.pt")
    convert_checkpoint(tmp_path / "old.pt", "linformer", out, heads=2, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    tokens = torch.randint(0, 20, (2, 9))
    assert difference(outputs(other, tokens), outputs(load(out), tokens)) < 1e-5
    assert not load(out).training
    (tmp_path / "empty").mkdir()
    convert_checkpoint(tmp_path / "old.pt", "linformer", tmp_path / "empty", heads=2)


def test_loading_something_else(tmp_path: Path) -> None:
    import subquadratic as sq

    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load(tmp_path)
    sq.LanguageModel(sq.TransformerConfig(dim=16, depth=1, heads=2), vocab_size=20).save_pretrained(tmp_path / "core")
    with pytest.raises(ValueError, match=r"holds a LanguageModel.*subquadratic.load loads it"):
        load(tmp_path / "core")
    torch.save(linformer().state_dict(), tmp_path / "old.pt")
    out = convert_checkpoint(tmp_path / "old.pt", "linformer", tmp_path / "new", heads=2)
    tokens = torch.randint(0, 20, (2, 9))
    assert torch.equal(sq.load(out)(tokens), load(out)(tokens))
    with pytest.raises(ValueError, match=r"quantize is for models of this package's own heads.*holds a compat\."):
        sq.load(out, quantize="int8")
    with pytest.raises(ValueError, match=r"not a LanguageModel: subquadratic.load loads either"):
        sq.LanguageModel.from_pretrained(out)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load(out)
    (out / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        load(out)


def test_names_of_the_package() -> None:
    for name in compat.__all__:
        assert getattr(compat, name) is not None
    importlib.import_module("subquadratic.compat.upgrade")
    assert callable(compat.upgrade)
    with pytest.raises(AttributeError, match="reformer_pytorch"):
        _ = compat.reformer_pytorch


@pytest.mark.parametrize("options", [dict(), dict(share_kv=True), dict(one_kv_head=True, dim_head=6)], ids=str)
def test_upgrade_linformer(options: dict) -> None:
    model = compat.linformer.Linformer(16, 24, 2, k=5, heads=2, **options)
    x, mask = torch.randn(2, 13, 16), torch.arange(13)[None] < torch.tensor([[13], [7]])
    twin = upgrade(model)
    assert type(twin).__module__ == "subquadratic.models.linformer"
    assert difference(model(x, mask=mask), twin(x, mask=mask)) < 1e-5
    attention = model.net.layers[0][0].fn
    assert difference(attention(x), upgrade(attention)(x)) < 1e-5


@pytest.mark.parametrize(
    "options", [dict(generalized_attention=True), dict(no_projection=True, use_rezero=True, shift_tokens=True)], ids=str
)
@pytest.mark.parametrize("axial", [False, True])
def test_upgrade_performer(options: dict, axial: bool, tmp_path: Path) -> None:
    shape = dict(axial_position_emb=True, axial_position_shape=(4, 6)) if axial else {}
    model = compat.performer_pytorch.PerformerLM(**PERFORMER, **options, **shape, tie_embed=True, rotary_position_emb=False).eval()
    tokens, x = torch.randint(0, 20, (2, 24)), torch.randn(2, 24, 16)
    twin = upgrade(model)
    assert difference(model(tokens), twin(tokens)) < 1e-5
    assert difference(model.performer(x), upgrade(model.performer)(x)) < 1e-5
    twin.save_pretrained(tmp_path)
    assert torch.equal(type(twin).from_pretrained(tmp_path)(tokens), twin(tokens))


def test_models_without_a_twin() -> None:
    fast = dict(COMMON, max_seq_len=24, dim_head=8)
    performer = compat.performer_pytorch.PerformerLM
    for model, why in (
        (compat.linformer.Linformer(16, 24, 2, k=5, heads=2, reversible=True), "sum of its two streams"),
        (compat.linformer.LinformerLM(20, 16, 24, 2, k=5, heads=2), "no norm before the logits"),
        (compat.fast_transformer_pytorch.FastTransformer(**fast), "raw keys"),
        (compat.feedback_transformer_pytorch.FeedbackTransformer(**COMMON, mem_len=4, dim_head=8), "not normalised"),
        (compat.perceiver_ar_pytorch.PerceiverAR(**COMMON, max_seq_len=24, cross_attn_seq_len=8, dim_head=8), "rotary"),
        (performer(**PERFORMER), "sinusoids"),
        (performer(**PERFORMER, rotary_position_emb=False), "bias"),
        (performer(**PERFORMER, rotary_position_emb=False, tie_embed=True), "1e-4"),
        (nn.Linear(2, 2), "no recipe"),
    ):
        with pytest.raises(ValueError, match=f"has no core twin: .*{why}"):
            upgrade(model)


@pytest.mark.parametrize(
    "twin",
    [
        compat.performer_pytorch.PerformerLM(num_tokens=256, max_seq_len=16, dim=16, depth=1, heads=2, dim_head=8, causal=True),
        compat.feedback_transformer_pytorch.FeedbackTransformer(num_tokens=256, dim=16, depth=1, mem_len=8, heads=2, dim_head=8),
        compat.perceiver_ar_pytorch.PerceiverAR(
            num_tokens=256, dim=16, depth=1, max_seq_len=16, cross_attn_seq_len=4, heads=1, dim_head=32
        ),
    ],
    ids=lambda twin: type(twin).__name__,
)
def test_a_converted_model_continues_a_text(twin: torch.nn.Module) -> None:
    from subquadratic.compat.continuation import Continuation

    model, prompt = Continuation(twin).eval(), torch.randint(0, 256, (1, 6))
    steps = torch.stack(list(model.stream(prompt, max_new_tokens=14, temperature=0.0)), dim=1)
    tokens = prompt
    for _ in range(14):
        tokens = torch.cat((tokens, twin(tokens[:, -16:] if hasattr(twin, "max_seq_len") else tokens)[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(tokens[:, 6:], steps)


def test_a_bidirectional_one_does_not() -> None:
    from subquadratic.compat.continuation import Continuation

    with pytest.raises(ValueError, match="only a causal language model can continue a text"):
        Continuation(linformer())


def test_what_a_twin_saved_needs_no_conversion(tmp_path: Path) -> None:
    from subquadratic.compat.performer_pytorch import PerformerLM

    model = PerformerLM(num_tokens=20, max_seq_len=16, dim=16, depth=1, heads=2, causal=True)
    torch.save(model.state_dict(), tmp_path / "twin.pt")
    with pytest.raises(ValueError, match=r"saved by our own twin of the PerformerLM .* load_state_dict"):
        convert_checkpoint(tmp_path / "twin.pt", "performer_pytorch", tmp_path / "out", causal=True)
    assert not (tmp_path / "out").exists()
