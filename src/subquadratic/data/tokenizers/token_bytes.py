"""The bytes that each token of a `tokenizers` vocabulary stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SPACE_MARK = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_tokens(backend: Any, content: dict[str, Any], vocab_size: int) -> list[bytes]:
    """One entry for each id below `vocab_size`: what it adds to a text; nothing for special tokens and for ids that no
    token has. A mark for a space (of SentencePiece, WordPiece or word vocabularies) is a space. `content` is the
    tokenizer.json of `backend`."""
    spell = _speller(backend, content)
    table = [b""] * vocab_size
    for token, index in backend.get_vocab(with_added_tokens=True).items():
        table[index] = spell(token)
    for index, added in backend.get_added_tokens_decoder().items():
        table[index] = b"" if added.special else added.content.encode()
    return table


def _speller(backend: Any, content: dict[str, Any]) -> Callable[[str], bytes]:
    """How this vocabulary writes text, from its decoder, or from its pre-tokenizer where a file has no decoder."""
    decoder = _parts(content.get("decoder"))
    kinds = {part["type"] for part in decoder}
    splits = {part["type"] for part in _parts(content.get("pre_tokenizer"))} if not kinds else set()
    if "ByteLevel" in kinds | splits:
        values = byte_values()
        return lambda token: b"".join(bytes([values[c]]) if c in values else c.encode() for c in token)
    marks = [part.get("replacement") or SPACE_MARK for part in decoder if part["type"] == "Metaspace"]
    marks += [SPACE_MARK] if "ByteFallback" in kinds or "Metaspace" in splits or _replaces_mark(decoder) else []
    if marks:
        return lambda token: _byte_token(token) or token.replace(marks[0], " ").encode()
    if "WordPiece" in kinds:
        prefix = next(part.get("prefix") or "##" for part in decoder if part["type"] == "WordPiece")
        return lambda token: (token[len(prefix) :] if token.startswith(prefix) else f" {token}").encode()
    if "BPEDecoder" in kinds:
        suffix = next(part.get("suffix") or "</w>" for part in decoder if part["type"] == "BPEDecoder")
        return lambda token: (f"{token[: -len(suffix)]} " if token.endswith(suffix) else token).encode()
    if not kinds:
        return lambda token: f" {token}".encode()  # as the library does: words with a space between
    return lambda token: backend.decode([backend.token_to_id(token)], skip_special_tokens=True).encode()


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a sequence, or the one step there is."""
    if step is None:
        return []
    nested = step.get("decoders") or step.get("pretokenizers")
    return [part for inner in nested for part in _parts(inner)] if nested else [step]


def _replaces_mark(decoder: list[dict[str, Any]]) -> bool:
    return any(part["type"] == "Replace" and part.get("pattern", {}).get("String") == SPACE_MARK for part in decoder)


def _byte_token(token: str) -> bytes | None:
    found = BYTE_TOKEN.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else None


def byte_values() -> dict[str, int]:
    """The byte for each character of the alphabet that byte-level vocabularies are written in: printable Latin-1
    characters stand for themselves, the other bytes, in order, for the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
