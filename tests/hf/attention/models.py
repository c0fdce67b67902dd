"""Tiny models of transformers, of random weights whose attention is not flat."""

import copy
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn

from subquadratic.hf.attention import configure

BASE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.15,
}
GROUPED = {**BASE, "num_key_value_heads": 2}
TOKENS = torch.randint(5, 50, (2, 20), generator=torch.Generator().manual_seed(0))
RIGHT, LEFT = torch.ones_like(TOKENS), torch.ones_like(TOKENS)
RIGHT[1, 12:] = 0
LEFT[1, :8] = 0


def build(model_class: type, config: Any, implementation: str, *, like: nn.Module | None = None, **options: Any) -> Any:
    """A model in evaluation mode; its configuration is a copy, which transformers would otherwise change for all that share it."""
    torch.manual_seed(1)
    model = model_class._from_config(copy.deepcopy(config), attn_implementation=implementation).eval()
    if like is not None:
        model.load_state_dict(like.state_dict())
    if options:
        configure(model, **options)
    return model


def bert(**options: Any) -> tuple[type, Any]:
    return t.BertModel, t.BertConfig(**BASE, **options)


def llama(**options: Any) -> tuple[type, Any]:
    return t.LlamaForCausalLM, t.LlamaConfig(**GROUPED, **options)


def mistral(**options: Any) -> tuple[type, Any]:
    return t.MistralForCausalLM, t.MistralConfig(**GROUPED, sliding_window=6, **options)


def modern_bert() -> tuple[type, Any]:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return t.ModernBertModel, t.ModernBertConfig(**BASE, **special, local_attention=8, global_attn_every_n_layers=2)


def whisper() -> tuple[type, Any]:
    each = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    sizes = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in each.items()}
    lengths = {"num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 40}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return t.WhisperForConditionalGeneration, t.WhisperConfig(vocab_size=50, d_model=32, init_std=0.08, **sizes, **lengths, **special)


def wav2vec2() -> tuple[type, Any]:
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    return t.Wav2Vec2Model, t.Wav2Vec2Config(**BASE, **convolutions, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)


def families() -> dict[str, tuple[type, Any, dict[str, Tensor]]]:
    """Model class, configuration and inputs, by name."""
    tokens = {"input_ids": TOKENS, "attention_mask": RIGHT}
    generator = torch.Generator().manual_seed(2)
    image = {key: value for key, value in BASE.items() if key != "vocab_size"}
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    gpt2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4}
    two_kinds = {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    return {
        "bert": (*bert(), tokens),
        "bert decoder": (t.BertLMHeadModel, t.BertConfig(**BASE, is_decoder=True), tokens),
        "roberta": (t.RobertaModel, t.RobertaConfig(**BASE), tokens),
        "modernbert": (*modern_bert(), tokens),
        "vit": (t.ViTModel, t.ViTConfig(**image, image_size=32, patch_size=8), {"pixel_values": pixels}),
        "wav2vec2": (*wav2vec2(), {"input_values": torch.randn(2, 400, generator=generator)}),
        "whisper": (*whisper(), {"input_features": torch.randn(2, 8, 60, generator=generator), "decoder_input_ids": TOKENS}),
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2, n_positions=64, initializer_range=0.15), tokens),
        "llama": (*llama(), tokens),
        "mistral": (*mistral(), tokens),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**GROUPED), tokens),
        "qwen2 sliding": (
            t.Qwen2ForCausalLM,
            t.Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=6, max_window_layers=1),
            tokens,
        ),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**GROUPED, head_dim=8), tokens),
        "gemma": (t.GemmaForCausalLM, t.GemmaConfig(**GROUPED, head_dim=8), tokens),
        "gemma3": (t.Gemma3ForCausalLM, t.Gemma3TextConfig(**GROUPED, **two_kinds), tokens),
    }
