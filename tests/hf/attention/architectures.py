"""Every architecture of transformers that a tiny configuration builds, with our attention against its own: the support table.

    python -m tests.hf.attention.architectures [model_type ...] > architectures.md

"exact" is a relative error below 1e-4, with windows and slots that see everything; "close" says the error of FAVOR+ with 1,024 features,
whose weights here are sharper than those of trained models.
"""

import contextlib
import copy
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from subquadratic.hf.attention import NAMES, check, configure
from subquadratic.hf.attention.checking import dry_inputs

MANY = {"features": 1024, "slots": 4096, "window": 4096}  # where window and Linformer are exact
NEVER = "never calls it"
LIMIT, SECONDS = 6_000_000, 30
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "word_embed_proj_dim", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "d_ff", "n_inner", "hidden_dim"), 64),
    **dict.fromkeys(("ffn_hidden_size",), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "d_kv", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "n_group", "topk_group"), 1),
    "vocab_size": 99, "max_position_embeddings": 128, "n_positions": 128, "image_size": 32, "patch_size": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "initializer_range": 0.15, "init_std": 0.15, "num_mel_bins": 8,
    "max_source_positions": 20, "max_target_positions": 64, "sliding_window": 6, "conv_dim": (16, 16), "conv_kernel": (10, 3),
    "conv_stride": (5, 2), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


@dataclass
class Row:
    """What was found of an architecture; a name without a finding was not tried."""

    model_type: str
    model: str = ""
    error: str = ""
    found: dict[str, str] = field(default_factory=dict)


def tiny(config_class: type) -> Any:
    """A small configuration of a class, with its parts small, too."""
    plain = config_class()
    chosen = {name: value for name, value in SIZES.items() if getattr(plain, name, None) is not None}
    parts = {key: tiny(type(part)) for key in plain.sub_configs or {} if (part := getattr(plain, key, None)) is not None}
    for given in (parts, {key: part.to_dict() for key, part in parts.items()}, {}):
        with contextlib.suppress(Exception):  # what this class does not take
            return config_class(**chosen, **given)
    return plain


def build(model_class: type, config: Any, implementation: str) -> nn.Module:
    torch.manual_seed(1)
    return model_class._from_config(copy.deepcopy(config), attn_implementation=implementation).eval()


def inputs_of(model: nn.Module) -> dict[str, Tensor]:
    """Two rows, the second padded where rows are tokens."""
    generator = torch.Generator().manual_seed(0)
    inputs = dry_inputs(model)
    for name, tensor in list(inputs.items()):
        if tensor.dtype is torch.int64:
            inputs[name] = torch.randint(5, 90, (2, 12), generator=generator)
        else:
            inputs[name] = torch.randn(2, *tensor.shape[1:], generator=generator)[..., :1000 if tensor.dim() == 2 else None]
    if "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones(2, 12, dtype=torch.int64)
        inputs["attention_mask"][1, 9:] = 0
    return inputs


def first_output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output = model(**inputs)
    tensor = next(value for name in ("logits", "last_hidden_state") if (value := getattr(output, name, None)) is not None)
    mask = inputs.get("attention_mask")
    return tensor[mask.bool()] if mask is not None and "decoder_input_ids" not in inputs and mask.shape == tensor.shape[:2] else tensor


def finding(model_class: type, config: Any, implementation: str, reference: nn.Module, expected: Tensor, inputs: dict[str, Tensor]) -> str:
    """"exact", "close", "partly" or why not."""
    try:
        model = build(model_class, config, implementation)
        model.load_state_dict(reference.state_dict())
        configure(model, **MANY)
        output = first_output(model, inputs)
        report = check(model, partial=True, **inputs)
    except NotImplementedError as error:
        return NEVER if "never calls" in str(error) else f"refused: {reason(error)}"
    except KeyError as error:
        return "refused by transformers (KeyError)" if implementation in str(error) else f"error: KeyError: {error}"
    except RuntimeError as error:
        return NEVER if "called none of" in str(error) else f"error: {str(error)[:60]}"
    except Exception as error:
        return f"error: {type(error).__name__}: {str(error)[:60]}"
    error = ((output - expected).norm() / expected.norm()).item()
    part = f", but {len(report.silent)} of {len(report.silent) + len(report.called)} attention modules compute for themselves"
    word = "exact" if error < 1e-4 else f"close ({error:.2f})"
    return word + (part if report.silent else "")


def reason(error: Exception) -> str:
    words = str(error).partition(", which ")[0]
    return words.partition(" ")[2] if words[:1].isupper() else words


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def examine(model_type: str, implementations: tuple[str, ...] = NAMES) -> Row:
    """One architecture, as a causal language model where there is one."""
    row = Row(model_type)
    try:
        with within(SECONDS):
            config_class = CONFIG_MAPPING[model_type]
            mapping = MODEL_FOR_CAUSAL_LM_MAPPING if config_class in MODEL_FOR_CAUSAL_LM_MAPPING else MODEL_MAPPING
            model_class = mapping[config_class]
            model_class = model_class[0] if isinstance(model_class, tuple | list) else model_class
            row.model = model_class.__name__
            config = tiny(config_class)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in model_class._from_config(copy.deepcopy(config)).parameters())
            if size > LIMIT:
                row.error = f"{size / 1e6:.0f} M parameters from the tiny configuration"
                return row
            reference = build(model_class, config, "eager")
            inputs = inputs_of(reference)
            expected = first_output(reference, inputs)
            if not bool(torch.isfinite(expected).all()):
                row.error = "its own attention gives no finite outputs"
                return row
            for implementation in implementations:
                row.found[implementation] = finding(model_class, config, implementation, reference, expected, inputs)
    except Exception as error:
        row.error = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return row


def model_types() -> list[str]:
    return sorted(name for name, config in CONFIG_MAPPING.items() if config in MODEL_FOR_CAUSAL_LM_MAPPING or config in MODEL_MAPPING)


def table(rows: list[Row]) -> str:
    """Markdown."""
    tried = [row for row in rows if row.found]
    lines = [
        f"With transformers {transformers.__version__}, tiny random weights, against `eager`: {len(tried)} architectures "
        f"(of {len(rows)}; the others build from no tiny configuration, or take inputs that it does not tell).",
        "",
        f"| architecture | model | {' | '.join(f'`{name}`' for name in NAMES)} |",
        "|---|---|---|---|---|",
        *(f"| {row.model_type} | `{row.model}` | {' | '.join(row.found[name] for name in NAMES)} |" for row in tried),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = []
    for name in sys.argv[1:] or model_types():
        rows.append(examine(name))
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
