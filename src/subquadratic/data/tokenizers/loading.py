"""How a tokenizer is found from a path, and loaded."""

import json
from pathlib import Path

from ..reading import expand_user
from .bytes import BYTES, TOKENIZER_FILE, VALUES_FILE, ByteTokenizer, Tokenizer

# What a tokenizer folder without a tokenizer.json holds instead; transformers knows how to read these.
OLDER_FILES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer that `path` names: None or `"bytes"`, a tokenizer.json, a Hugging Face tokenizer folder, or the
    folder of a run or a saved model, which reads bytes where it has no tokenizer of its own.

    Raises:
        ValueError: there is none, or its files are damaged; the message names the file.
        ModuleNotFoundError: the package `tokenizers` (extra `train`) is missing.
    """
    place = find_tokenizer(path)
    if place is None:
        return ByteTokenizer()
    if place.is_file():
        return _from_file(place)
    from .text import convert_folder

    return convert_folder(place)


def find_tokenizer(path: str | Path | None) -> Path | None:
    """Where the tokenizer of `load_tokenizer` lies: a tokenizer.json, or a folder with files of older forms; None for the one of bytes.

    Raises:
        ValueError: there is none.
    """
    if path is None or str(path) == BYTES:
        return None
    if not str(path).strip():
        raise ValueError("tokenizer: the name is empty; give bytes, a tokenizer.json or a folder that holds one")
    place = expand_user(path)
    if place.is_file():
        return place
    if not place.is_dir():
        raise ValueError(f"tokenizer: no such file or folder: {place}; give bytes, a tokenizer.json or a folder that holds one")
    for name in (VALUES_FILE, TOKENIZER_FILE):
        if (place / name).is_file():
            return place / name
    if any((place / name).is_file() for name in OLDER_FILES):
        return place
    if _is_our_model(place):
        return None
    raise ValueError(f"tokenizer: no {TOKENIZER_FILE} in {place} (nor {', '.join(OLDER_FILES)}, nor a model that reads bytes)")


def _is_our_model(folder: Path) -> bool:
    """Whether `folder` is a run or a saved model of this package, and not one of another, whose tokenizer is missing."""
    if (folder / "run.json").is_file() or (folder / "run.yaml").is_file():
        return True
    try:
        return "class" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _from_file(path: Path) -> Tokenizer:
    if path.name == VALUES_FILE:
        from .values import load_values

        return load_values(path)
    from .text import TextTokenizer

    return TextTokenizer.from_file(path)
