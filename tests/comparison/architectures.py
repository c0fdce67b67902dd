"""Small architectures of transformers, as folders with a config.json."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip
NAMES = tuple(SIZES)


def architecture(name: str, folder: Path) -> dict[str, Any]:
    """Its folder below `folder`, as a spec."""
    AutoConfig.for_model(name, **SIZES[name]).save_pretrained(folder / name)
    return {"source": "transformers", "path": str(folder / name)}
