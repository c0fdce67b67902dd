"""What a distillation is trained on and what it is measured on: paragraphs, and the words of the tokenizer's vocabulary.

A teacher answers whatever it is asked, so text is needed only to ask about everything. Words of the vocabulary in place of a text's own,
and lines of nothing else, ask about words that the text does not have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...data.corpus import STDLIB, load_corpus
from .prose import installed_prose

PER_TOKEN = 4.4  # characters of English a token has, about
SHORTEST = 6  # tokens
LINES = 0.1  # of what is asked is nothing but words of the vocabulary,
MIXED = 0.3  # and in so much of the rest some words are exchanged,
EXCHANGED = (0.05, 0.4)  # of which this much
FEWEST, LONGEST = 20, 2000  # characters of a paragraph; longer ones are cut
MOST = 64 << 20  # bytes that are kept in memory


@dataclass(frozen=True)
class Texts:
    """Paragraphs to train on, others to measure on, and where they are from."""

    train: list[str]
    held_out: list[str]
    name: str


def read_texts(data: str | None, progress: Callable[[int, int | None], None] | None = None) -> Texts:
    """Texts that ``data`` names, as :func:`subquadratic.load_corpus` reads it; None: :func:`installed_prose`.

    Raises:
        ValueError: as there, or if there is too little to hold something out.
    """
    if data is None:
        train, held = installed_prose()
        if len(train) >= 200 and len(held) >= 20:
            return Texts(train, held, "docstrings and descriptions of the installed Python packages")
        data = STDLIB
    corpus = load_corpus(data, progress=progress)
    sides = _paragraphs(corpus.train, corpus.train_starts), _paragraphs(corpus.validation, corpus.validation_starts)
    if not all(sides):
        raise ValueError(f"data: {corpus.name} has too little text to hold some out for measuring; give more")
    return Texts(sides[0], sides[1], corpus.name)


def _paragraphs(tokens: Any, starts: Any) -> list[str]:
    """Of documents of bytes (a token beyond 255 is a mark between them); of more than can be used, evenly chosen documents."""
    found: list[str] = []
    bounds = [*map(int, starts), len(tokens)]
    stride = max(1, len(tokens) // MOST)
    for begin, end in list(pairwise(bounds))[::stride]:
        side = np.asarray(tokens[begin : min(end, begin + MOST)])
        text = side[side < 256].astype(np.uint8).tobytes().decode("utf-8", errors="replace")
        for block in re.split(r"\n\s*\n", text):
            line = " ".join(block.split())
            found += [piece for i in range(0, len(line), LONGEST) if len(piece := line[i : i + LONGEST]) >= FEWEST]
    return found


def words_of(tokenizer: Any) -> list[str]:
    """Whole words of a vocabulary, of three letters and more."""
    found = set()
    for token in tokenizer.get_vocab():
        word = token.lstrip("▁Ġ")
        if len(word) >= 3 and word.isalpha() and (word.islower() or word.istitle()):
            found.add(word)
    return sorted(found)


class Sampler:
    """Texts of about equal length, drawn from paragraphs and words; the same for the same seed.

    Args:
        paragraphs: what is drawn from.
        words: of the vocabulary; none: nothing is exchanged.
        length: tokens of the longest texts, about.
        seed: of the draws.
    """

    def __init__(self, paragraphs: list[str], words: list[str], *, length: int, seed: int) -> None:
        self.paragraphs, self.words, self.length = paragraphs, words, length
        self.random = random.Random(seed)

    def batch(self, count: int) -> list[str]:
        """``count`` texts of one length, which is drawn evenly: short ones are nearly right as they are."""
        tokens = self.random.randint(min(SHORTEST, self.length), self.length)
        return [self.text(tokens) for _ in range(count)]

    def text(self, tokens: int) -> str:
        """One of about so many tokens."""
        draw, size = self.random, max(12, round(tokens * PER_TOKEN))
        if self.words and draw.random() < LINES:
            return " ".join(draw.choices(self.words, k=max(1, round(size / 7))))
        place = draw.randrange(len(self.paragraphs))
        text = self.paragraphs[place]
        if len(text) > size:
            start = draw.randrange(len(text) - size)
            text = text[start : start + size + 12]
            text = text.partition(" ")[2].rpartition(" ")[0] or text if start else text.rpartition(" ")[0] or text
        while len(text) < size * 0.7 and place + 1 < len(self.paragraphs):
            place += 1
            text = f"{text} {self.paragraphs[place]}"
        text = text[: size + 12]
        return self._mixed(text) if self.words and draw.random() < MIXED else text

    def _mixed(self, text: str) -> str:
        draw, share = self.random, self.random.uniform(*EXCHANGED)
        return " ".join(draw.choice(self.words) if word.isalpha() and draw.random() < share else word for word in text.split(" "))


def held_out_texts(texts: Texts, *, length: int, count: int, seed: int) -> list[str]:
    """``count`` texts to measure on, of many lengths, with nothing exchanged."""
    sampler = Sampler(texts.held_out, [], length=length, seed=seed)
    return [text for _ in range(count) for text in sampler.batch(1)]
