"""Tiny random models of transformers in folders, with tokenizers, and sharp attention, as trained models have."""

import json
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = re.findall(
    r"\w+",
    "the a of and to in is that it was for on are with as they at be this have from or one had by word but not what all were when your "
    "can said there use an each which she do how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been call who oil its now find",
)
SENTENCES = 40


def tokenizer_in(folder: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner = Tokenizer(WordLevel({word: place for place, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = Lowercase(), Whitespace()
    inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names).save_pretrained(folder)


def bert_in(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(WORDS) + 4, max_position_embeddings=64, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer_in(folder)
    return folder


def sentence_bert_in(folder: Path) -> Path:
    """As sentence-transformers has it: modules, and a pooling that is not the mean."""
    bert_in(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def gpt2_in(folder: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS) + 4, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=2, eos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer_in(folder)
    return folder


def text_in(folder: Path) -> Path:
    """Files of paragraphs, enough to hold some out."""
    generator = torch.Generator().manual_seed(1)
    folder.mkdir(exist_ok=True)
    for number in range(SENTENCES):
        places = torch.randint(len(WORDS), (4, 30), generator=generator).tolist()
        (folder / f"{number}.txt").write_text("\n\n".join(" ".join(WORDS[place] for place in row) for row in places))
    return folder
