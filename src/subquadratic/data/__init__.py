"""Text in, windows of tokens out: the byte tokenizer, the corpora, the windows over them."""

from .corpus import Corpus, load_corpus
from .tokenizer import ByteTokenizer
from .windows import Windows

__all__ = ["ByteTokenizer", "Corpus", "Windows", "load_corpus"]
