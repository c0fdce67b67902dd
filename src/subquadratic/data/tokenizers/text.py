"""Any tokenizer that the `tokenizers` library reads, behind the `Tokenizer` protocol.

Three promises that the library alone does not make:

- Text never becomes a special token. A user who types `<|endoftext|>` gets the tokens of those characters.
- The four special tokens exist. Those that the file does not name are added above its own ids.
- Decoding is by bytes, token by token: a byte-level vocabulary comes back lossless, parts of a character included.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bytes import TOKENIZER_FILE, check_tokens
from .token_bytes import bytes_of_tokens

# It is on anyway; said out loud, the library does not warn when data loaders fork, which never encode.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

CONFIG_FILE, MAP_FILE = "tokenizer_config.json", "special_tokens_map.json"
ROLES = ("pad", "bos", "eos", "mask")
# Keys of tokenizer_config.json that play a role, and names to look for where no such file says; the first found is taken.
KEYS = {"pad": ("pad_token",), "bos": ("bos_token", "cls_token"), "eos": ("eos_token", "sep_token"), "mask": ("mask_token",)}
NAMES = {
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|padding|>"),
    "bos": ("<|bos|>", "<bos>", "<s>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos": ("<|eos|>", "<eos>", "</s>", "[EOS]", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
}


class TextTokenizer:
    """A `tokenizers.Tokenizer` and the ids of its special tokens.

    `backend` is changed: special tokens that it lacks are added, and it encodes their names as ordinary text. `named`
    gives names of special tokens by role (`pad`, `bos`, `eos`, `mask`); for roles not named, usual names are looked for.
    `pad` and `mask` have ids of their own; `bos` and `eos` may be one token. A token that also stands for unknown text is
    none of the four.
    """

    def __init__(self, backend: Any, *, name: str, named: dict[str, str] | None = None) -> None:
        self.name = name
        self.backend = _with_special_tokens(backend, named or {})
        self.roles = roles = _roles(self.backend, named or {})
        self.pad_token, self.bos_token, self.eos_token, self.mask_token = (roles[role] for role in ROLES)
        ids = self.backend.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids) + 1
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)
        state = self.backend.to_str()
        self.digest = hashlib.sha256(f"{state}\0{json.dumps(roles)}".encode()).hexdigest()
        self._bytes = bytes_of_tokens(self.backend, json.loads(state), self.vocab_size)
        self._prefix = self._finds_prefix()

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The tokenizer of a tokenizer.json; the files beside it name the special tokens, where they exist.

        Raises:
            ValueError: a file is damaged or is something else.
        """
        from tokenizers import Tokenizer

        content = _read_json(path)
        if "model" not in content:
            raise ValueError(f"tokenizer: {path} is not a tokenizer.json: it has no model")
        if isinstance(content["model"], dict) and content["model"].get("dropout"):
            content["model"]["dropout"] = None  # one text, one list of tokens
        try:
            backend = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"tokenizer: {path} is not a tokenizer.json that the tokenizers library reads: {error}") from error
        folder = path.parent if path.name == TOKENIZER_FILE else None
        return cls(backend, name=str(folder or path), named=_names_in(folder) if folder else None)

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """The tokens of `text`; a lone surrogate in it, which UTF-8 cannot write, becomes `?`.

        Raises:
            ValueError: bytes that are not UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, batch: Sequence[str | bytes]) -> list[NDArray[Any]]:
        """`encode` of each, on all cores."""
        texts = [self._text(text) for text in batch]
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(each.ids, dtype=self.dtype) for each in encoded]
        return [self._without_special(text, ids) for text, ids in zip(texts, found, strict=True)]

    def decode_bytes(self, tokens: ArrayLike) -> bytes:
        """The bytes of `tokens`, special tokens left out. Vocabularies whose words begin with a mark for the space before
        them give that space, also at the beginning of a text.

        Raises:
            ValueError: a token below 0 or not below `vocab_size`.
        """
        return b"".join(map(self._bytes.__getitem__, check_tokens(tokens, self.vocab_size).tolist()))

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD, special tokens are left out. A space that the
        tokenizer puts before every text is taken off again."""
        data = self.decode_bytes(tokens)
        data = data[1:] if self._prefix and data.startswith(b" ") else data
        return data.decode("utf-8", errors="replace")

    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) how many bytes of text each token stands for, 0 for the special ones. Exact for byte-level vocabularies;
        those that normalise text or mark words count what `decode_bytes` gives."""
        return np.array([len(data) for data in self._bytes], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json, which transformers reads too."""
        from ...heads.files import replace_files

        vocabulary = {index: token for token, index in self.backend.get_vocab(with_added_tokens=True).items()}
        names = {f"{role}_token": vocabulary[index] for role, index in self.roles.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "clean_up_tokenization_spaces": False}
        folder.mkdir(parents=True, exist_ok=True)
        tokens = self.backend.to_str(pretty=True)
        roles = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        replace_files(
            {
                folder / TOKENIZER_FILE: lambda file: file.write_text(tokens, encoding="utf-8"),
                folder / CONFIG_FILE: lambda file: file.write_text(roles, encoding="utf-8"),
            }
        )

    def _text(self, text: str | bytes) -> str:
        if isinstance(text, str):
            return text.encode("utf-8", errors="replace").decode("utf-8")
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text is not UTF-8 at byte {error.start}, which only the tokenizer bytes takes") from error

    def _without_special(self, text: str, ids: NDArray[Any]) -> NDArray[Any]:
        """`ids`, encoded anew where a word of the model's own vocabulary is a special token: with its name cut in two."""
        special = list(self.roles.values())
        if not np.isin(ids, special).any():
            return ids
        names = [self.backend.id_to_token(index) for index in special]
        pieces = re.split("|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names), text)
        parts = [each.ids for each in self.backend.encode_batch_fast(pieces, add_special_tokens=False)]
        joined = np.array([index for part in parts for index in part], dtype=self.dtype)
        return joined[~np.isin(joined, special)]

    def _finds_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text that has none."""
        word = next((data[1:] for data in self._bytes if data.startswith(b" ") and data[1:].isalpha()), b"a")
        return self.decode_bytes(self.encode(word)).startswith(b" ")


def convert_folder(folder: Path) -> TextTokenizer:
    """The tokenizer of a folder in one of the older forms (vocab.json and merges.txt, vocab.txt, a SentencePiece model),
    read by transformers.

    Raises:
        ValueError: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)._tokenizer
    except Exception as error:  # every tokenizer class fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"tokenizer: transformers cannot read the tokenizer in {folder}: {reason}") from error
    return TextTokenizer(backend, name=str(folder), named=_names_in(folder))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"tokenizer: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"tokenizer: {path} is not valid JSON (damaged or cut short?): {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"tokenizer: {path} must hold a JSON object, got {type(content).__name__}")
    return content


def _names_in(folder: Path) -> dict[str, str]:
    """The special tokens' names by role, from the files that Hugging Face writes beside a tokenizer."""
    named: dict[str, str] = {}
    for file in (CONFIG_FILE, MAP_FILE):
        content = _read_json(folder / file) if (folder / file).is_file() else {}
        for role in ROLES:
            for key in KEYS[role]:
                value = content.get(key)
                value = value.get("content") if isinstance(value, dict) else value
                if isinstance(value, str):
                    named.setdefault(role, value)
    return named


def _with_special_tokens(backend: Any, named: dict[str, str]) -> Any:
    """`backend` with a special token for every role, and with none recognised in text."""
    from tokenizers import AddedToken

    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    vocabulary = set(backend.get_vocab(with_added_tokens=True))
    roles = _roles(backend, named)
    taken = [backend.id_to_token(index) for index in roles.values()]
    # Known tokens again: some files keep a special token among the ordinary ones, where text would find it.
    missing = [_unused(f"<|{role}|>", vocabulary) for role in ROLES if role not in roles]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*dict.fromkeys(taken), *missing]])
    return backend


def _roles(backend: Any, named: dict[str, str]) -> dict[str, int]:
    """The id for each role that a token of `backend` plays."""
    unknown = _unknown_token(backend)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    roles: dict[str, int] = {}
    for role in ("eos", "bos", "mask", "pad"):  # the last two must not be a token that the first have
        listed = [named[role]] if role in named else []
        for name in [*listed, *(name for name in NAMES[role] if name in added), *_added_names(role, added)]:
            index = backend.token_to_id(name)
            free = role in ("eos", "bos") or index not in roles.values()
            if index is not None and name != unknown and free:
                roles[role] = index
                break
    return {role: roles[role] for role in ROLES if role in roles}


def _added_names(role: str, added: set[str]) -> list[str]:
    """The name that `_unused` may have found for a role."""
    pattern = re.compile(rf"<\|{role}_+\|>")
    return sorted(name for name in added if pattern.fullmatch(name))


def _unused(name: str, vocabulary: set[str]) -> str:
    while name in vocabulary:
        name = name.replace("|>", "_|>")
    return name


def _unknown_token(backend: Any) -> str | None:
    """What the model gives for text that it has no token for; None for a model that has one for all."""
    if hasattr(backend.model, "unk_token"):
        return backend.model.unk_token or None
    index = json.loads(backend.to_str())["model"].get("unk_id")  # of a Unigram model, which does not tell it otherwise
    return None if index is None else backend.id_to_token(index)
