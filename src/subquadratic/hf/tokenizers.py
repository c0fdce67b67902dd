"""Our tokenizers as folders that the stock `AutoTokenizer` loads: a tokenizer.json and a tokenizer_config.json, and no code.

Ids are those that the model was trained with. No text is encoded to a special token, as everywhere in this package: the folder says
`split_special_tokens`, which `AutoTokenizer.from_pretrained(path, split_special_tokens=False)` undoes for programs that write special
tokens by name. Chats get their turns from `chat_template`, whatever is said in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import require_choice
from ..data.tokenizers.bytes import ByteTokenizer, Tokenizer
from ..data.tokenizers.loading import load_tokenizer
from ..data.tokenizers.text import ROLES, TextTokenizer
from ..data.tokenizers.token_bytes import byte_values
from .chat_template import CHAT_TEMPLATE, END, MARK_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Where a model has rows for the bytes only, its special tokens are bytes that UTF-8 has no use for, as are those of the chat template.
SPARE_BYTES = dict(zip(ROLES, range(0xF8, 0xFC), strict=True))


def save_tokenizer(
    source: Tokenizer | str | Path | None,
    out: str | Path,
    *,
    vocab_size: int | None = None,
    max_length: int | None = None,
    padding_side: str = "left",
    first: str = "eos",
    chat: bool = True,
) -> PreTrainedTokenizerFast:
    """Write `source` into the folder `out` as transformers does, and return what `AutoTokenizer.from_pretrained(out)` gives.

    Args:
        source: a tokenizer, or what `load_tokenizer` takes: a folder, a tokenizer.json, or None for bytes.
        vocab_size: how many tokens the model has; default: as many as the tokenizer. A byte model without rows for special tokens
            (256) gets ids from 0xF8 on for them, which are no bytes of UTF-8.
        max_length: the longest input that the model takes; None: any.
        padding_side: "left" to generate, "right" as encoders are mostly used; the models take both.
        first: what `bos_token` is: "eos" for a language model, for which a document begins where another has ended; "bos" for an
            encoder-decoder, whose targets begin with a token of their own.
        chat: have a chat template, where the vocabulary is byte-level. An encoder's must not: sentence-transformers passes every text
            through one.

    Raises:
        ValueError: tokens of values, which are no text; or more tokens than the model has.
    """
    tokenizer = stock_tokenizer(source, vocab_size=vocab_size, max_length=max_length, padding_side=padding_side, first=first, chat=chat)
    tokenizer.save_pretrained(str(out))
    return tokenizer


def stock_tokenizer(
    source: Tokenizer | str | Path | None,
    *,
    vocab_size: int | None = None,
    max_length: int | None = None,
    padding_side: str = "left",
    first: str = "eos",
    chat: bool = True,
) -> PreTrainedTokenizerFast:
    """What `save_tokenizer` writes, in memory, with the same arguments and errors."""
    from transformers import PreTrainedTokenizerFast

    ours = load_tokenizer(source) if source is None or isinstance(source, str | Path) else source
    if isinstance(ours, ByteTokenizer):
        backend, names = _of_bytes(ours, vocab_size)
    elif isinstance(ours, TextTokenizer):
        backend, names = _of_text(ours)
    else:
        raise ValueError(f"tokenizer: {ours.name} are no text, and tokenizers of transformers read text; give the model ids (input_ids)")
    needed = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    if vocab_size is not None and needed > vocab_size:
        raise ValueError(f"tokenizer: {ours.name} has {needed:,} tokens, and the model {vocab_size:,}")

    require_choice("first", first, ("bos", "eos"))
    chosen = names | {"bos_token": names[f"{first}_token"]}
    spare = sorted({*names.values()} - {*chosen.values()})
    marked = chat and all(backend.token_to_id(mark) is not None for mark in MARK_BYTES)
    template = {"chat_template": CHAT_TEMPLATE} if marked else {}
    limit = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **chosen,
        extra_special_tokens=spare,
        **template,
        **limit,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        padding_side=padding_side,
        model_input_names=["input_ids", "attention_mask"],
    )


def stop_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids that end a generated text, for `GenerationConfig.eos_token_id`: the end of a document, and the end of a turn."""
    end = tokenizer.get_vocab().get(END)
    return [tokenizer.eos_token_id] + ([] if end is None else [end])


def _of_bytes(ours: ByteTokenizer, vocab_size: int | None) -> tuple[Any, dict[str, str]]:
    """The token of a byte is its value: a BPE without merges, over the characters that byte-level vocabularies write bytes with."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {role: getattr(ours, f"{role}_token") for role in ROLES}
    if vocab_size is not None and vocab_size < ours.vocab_size:
        ids = SPARE_BYTES
    special = {f"<|{role}|>": index for role, index in ids.items()}
    own = {index: name for name, index in (special | MARK_BYTES).items()}
    bytes_ = {own.get(byte, character): byte for character, byte in byte_values().items()}
    backend = Tokenizer(models.BPE(vocab=bytes_ | special, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _finished(backend, list(special)), {f"{role}_token": f"<|{role}|>" for role in ROLES}


def _of_text(ours: TextTokenizer) -> tuple[Any, dict[str, str]]:
    """The same vocabulary, in which the marks take the place of the bytes that no text holds, if it is byte-level and has them."""
    from tokenizers import Tokenizer

    content = json.loads(ours.backend.to_str())
    vocabulary = {index: name for name, index in ours.backend.get_vocab(with_added_tokens=True).items()}
    names = {f"{role}_token": vocabulary[index] for role, index in ours.roles.items()}
    backend = Tokenizer.from_str(json.dumps(_with_marks(content) or content))
    marked = all(backend.token_to_id(mark) is not None for mark in MARK_BYTES)
    if marked:
        return _finished(backend, list(names.values())), names
    if backend.num_special_tokens_to_add(False):  # a model of this package was trained without them
        from tokenizers.processors import ByteLevel

        backend.post_processor = ByteLevel(trim_offsets=False)
    return backend, names


def _with_marks(content: dict[str, Any]) -> dict[str, Any] | None:
    """A tokenizer.json with the marks in its vocabulary; None where there is no place for them, or where they are."""
    model, letters = content["model"], {byte: character for character, byte in byte_values().items()}
    if model["type"] != "BPE" or '"ByteLevel"' not in json.dumps(content["pre_tokenizer"]):
        return None
    places = {letters[byte]: mark for mark, byte in MARK_BYTES.items()}
    merged = {piece for merge in model["merges"] for piece in merge}
    if not places.keys() <= model["vocab"].keys() or places.keys() & merged:
        return None
    vocabulary = {places.get(token, token): index for token, index in model["vocab"].items()}
    return {**content, "model": {**model, "vocab": vocabulary}}


def _finished(backend: Any, special: list[str]) -> Any:
    """A byte-level `backend` with what comes after the model. Marks are no special tokens: they act in a chat, where those are split; so
    the decoder has to leave them out."""
    from tokenizers import AddedToken, decoders, processors

    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.Sequence([*(decoders.Replace(mark, "") for mark in MARK_BYTES), decoders.ByteLevel()])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(special)])
    backend.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARK_BYTES])
    return backend
