#!/usr/bin/env bash
# peft 0.21.2 (CPU): a LoRA adapter on tied embeddings with ensure_weight_tying=True acts on the token table and on the output map alike, as
# documented. merge_and_unload() then adds its update to their one weight twice, once for each module, without a word: the merged model is
# base + 2 * update, and its logits are not those of the adapter. With safe_merge=True the same. A model whose embeddings are not tied, with an
# adapter on the token table, merges into what it was.
# A good guess is that merging leaves the logits what they were, and once more where the tying of the adapter was asked for by name.
#
# Seen when written (peft 0.21.2, transformers 5.23.0, torch 2.13.0+cpu, Python 3.11, Linux x86-64):
#   tied: merged weight is base + 2.00 updates, logits equal: False
#   tied, safe_merge: merged weight is base + 2.00 updates, logits equal: False
#   untied: merged weight is base + 1.00 updates, logits equal: True
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" "transformers==5.23.0" "peft==0.21.2" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - <<'PY'
import sys

import peft
import torch
import transformers

print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)


def merged(tied, safe):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=24, tie_word_embeddings=tied
    )
    lora = peft.LoraConfig(r=3, target_modules=["embed_tokens"], ensure_weight_tying=tied, init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora).eval()
    table, tokens = model.get_base_model().model.embed_tokens, torch.arange(1, 9)[None]
    base, update = table.base_layer.weight.detach().clone(), table.get_delta_weight("default").detach()
    logits = model(input_ids=tokens).logits
    whole = model.merge_and_unload(safe_merge=safe)
    times = ((whole.get_input_embeddings().weight - base) * update).sum() / update.square().sum()
    return f"{times.item():.2f}", torch.allclose(whole(input_ids=tokens).logits, logits, atol=1e-4)


seen = {"tied": merged(True, False), "tied, safe_merge": merged(True, True), "untied": merged(False, False)}
for name, (times, equal) in seen.items():
    print(f"{name}: merged weight is base + {times} updates, logits equal: {equal}")
sys.exit(0 if seen == {"tied": ("2.00", False), "tied, safe_merge": ("2.00", False), "untied": ("1.00", True)} else "changed")
PY
