"""Text, integers or numbers in, tokens out: tokenizers, sources, corpora, the token store, windows, labelled examples, synthetic tasks.

Names are loaded when they are first used: the names of the tasks are there without torch, and a tokenizer without pyarrow.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .binning import Binning
    from .corpus import Corpus, load_corpus
    from .example_loading import load_examples
    from .examples import Examples, collate
    from .tasks import Task, make_task
    from .tokenizers.bytes import ByteTokenizer, Tokenizer
    from .tokenizers.loading import load_tokenizer
    from .tokenizers.text import TextTokenizer
    from .tokenizers.values import IntegerTokenizer, NumberTokenizer
    from .windows import Windows

_HOMES = {
    "Binning": "binning",
    "ByteTokenizer": "tokenizers.bytes",
    "Corpus": "corpus",
    "Examples": "examples",
    "Task": "tasks",
    "IntegerTokenizer": "tokenizers.values",
    "NumberTokenizer": "tokenizers.values",
    "TextTokenizer": "tokenizers.text",
    "Tokenizer": "tokenizers.bytes",
    "Windows": "windows",
    "load_corpus": "corpus",
    "collate": "examples",
    "load_examples": "example_loading",
    "load_tokenizer": "tokenizers.loading",
    "make_task": "tasks",
}

__all__ = [
    "Binning",
    "ByteTokenizer",
    "Corpus",
    "Examples",
    "IntegerTokenizer",
    "NumberTokenizer",
    "Task",
    "TextTokenizer",
    "Tokenizer",
    "Windows",
    "collate",
    "load_corpus",
    "load_examples",
    "load_tokenizer",
    "make_task",
]

__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
