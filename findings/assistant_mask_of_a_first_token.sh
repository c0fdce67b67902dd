#!/usr/bin/env bash
# transformers 5.23.0: apply_chat_template(return_assistant_tokens_mask=True) marks the tokens that stand between {% generation %} and
# {% endgeneration %}. Where the first thing in a conversation is an assistant's message of one token, it marks the whole conversation: the
# place of the last token, 0, is taken for one that was not found (`end_token + 1 if end_token else len(input_ids[i])`). A message of two
# tokens is marked rightly. With assistant_only_loss, a model is then trained on what users say.
# A good guess is that the mask covers what the assistant said, however short and wherever it is.
#
# Seen when written (transformers 5.23.0, tokenizers 0.23.3, Python 3.11, Linux x86-64):
#   hello: ids [1, 2, 3] mask [1, 1, 1]
#   hello hello: ids [1, 1, 2, 3] mask [1, 1, 0, 0]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "transformers==5.23.0" "tokenizers==0.23.3" "jinja2==3.1.6" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import sys

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

print("transformers", transformers.__version__)
backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "you": 2, "there": 3}, unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
tokenizer.chat_template = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ ' ' + m.content }}{% endif %}{% endfor %}"
)
seen = {}
for said in ("hello", "hello hello"):
    chat = [{"role": "assistant", "content": said}, {"role": "user", "content": "you there"}]
    done = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    seen[said] = done["assistant_masks"]
    print(f"{said}: ids {done['input_ids']} mask {done['assistant_masks']}")
sys.exit(0 if seen == {"hello": [1, 1, 1], "hello hello": [1, 1, 0, 0]} else "changed")
PY
