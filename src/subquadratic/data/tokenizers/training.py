"""A byte-level BPE tokenizer from any source of text, by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterator

from ..documents import read_documents
from ..passed_over import PassedOver
from ..source import Source
from ..tokenizing import Progress, counter
from .text import TextTokenizer

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>")
SMALLEST = 256 + len(SPECIAL)
LARGEST = 2**24
SAMPLE_BYTES = 1_000_000


def train_tokenizer(
    source: Source, *, vocab_size: int, progress: Progress | None = None, passed: PassedOver | None = None
) -> tuple[TextTokenizer, float]:
    """A tokenizer of at most `vocab_size` tokens, and how many bytes of text its tokens stand for on average, on the
    first megabyte of text.

    All 256 bytes are tokens, so every text can be written; ids 0 to 3 are padding, beginning, end and mask. A text with
    little in it gives fewer tokens than asked. The text is read as a stream, and the same text gives the same tokenizer.
    `passed` hears of what is passed over.

    Raises:
        ValueError: `vocab_size` is too small, or the text cannot be read, is not UTF-8, or is not there.
    """
    if not isinstance(vocab_size, int) or not SMALLEST <= vocab_size <= LARGEST:
        least = f"{SMALLEST} (the bytes and {len(SPECIAL)} special tokens)"
        raise ValueError(f"vocab_size must be from {least} to {LARGEST}, got {vocab_size!r}")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample: list[bytes] = []
    passed = source.passed() if passed is None else passed

    def texts() -> Iterator[str]:
        size = 0
        for document in read_documents(source, utf8=True, progress=counter(source, progress), passed=passed):
            if size < SAMPLE_BYTES:
                sample.append(document.text[: SAMPLE_BYTES - size])
                size += len(sample[-1])
            yield document.text.decode("utf-8")

    backend.train_from_iterator(texts(), trainer=trainer)
    if not sample:
        raise ValueError(f"data: {source.name} holds no text{passed.because()}")
    tokenizer = TextTokenizer(backend, name=source.name)
    whole = [text.decode("utf-8", errors="ignore") for text in sample]
    tokens = sum(map(len, tokenizer.encode_batch(whole)))
    return tokenizer, sum(len(text.encode()) for text in whole) / max(1, tokens)
