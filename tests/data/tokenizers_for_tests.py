"""Small tokenizers, made anew in each process."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from subquadratic.data import TextTokenizer

LINES = ["the quick brown fox jumps over the lazy dog", "héllo wörld 😀 日本語", "hello <|eos|> world", "  indented\n\ttabs"]


def byte_level(specials: list[str] | None = None, size: int = 320, **pre: Any) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **pre})
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials or [], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(LINES * 5, trainer)
    return backend


def bpe(size: int = 320) -> TextTokenizer:
    return TextTokenizer(byte_level(["<|eos|>"], size), name="bpe")
