"""Sequence to sequence: an encoder reads the source, a causal decoder writes the target."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...data import Examples, collate
from ...heads.encoder_decoder import EncoderDecoder
from ..configuration import length_limit, pair_configs
from ..options import TrainOptions
from ..snippets import TRANSLATES
from . import samples
from .problem import Batch, Problem, Sums
from .setup import examples_facts


def rows_problem(options: TrainOptions, examples: Examples) -> Problem:
    """The column `target` of a table, from the column `text`.

    Raises:
        ValueError: the model cannot be an encoder or a decoder.
    """
    tokenizer, (source_length, target_length) = examples.tokenizer, examples.longest
    encoder, decoder = pair_configs(options)

    def build() -> EncoderDecoder:
        return EncoderDecoder(
            encoder,
            decoder,
            vocab_size=tokenizer.vocab_size,
            max_length=length_limit(encoder, options.context),
            target_max_length=length_limit(decoder, options.context),
            tie_embeddings=True,
        )

    return Problem(
        kind="sequence_to_sequence",
        text=examples.describe(),
        facts=examples_facts(examples),
        train=examples.train,
        validation=examples.validation,
        collate=lambda items: collate(items, tokenizer.pad_token),
        build=build,
        sums=_sums,
        headline=lambda score: f"{score.accuracy:.2%} of {score.predicted:,} target tokens right, loss {score.loss:.4f}",
        sample=lambda model, seed: samples.of_pairs(model, examples.validation, tokenizer),
        tokens=source_length + target_length,
        size=len(examples.train) * (source_length + target_length),
        uniform=math.log(tokenizer.vocab_size),
        snippet=TRANSLATES,
        save_extra=tokenizer.save,
        closing=lambda folder: f'subq generate {folder} --prompt "a source text"',
    )


def _sums(model: Any, batch: Batch, generator: torch.Generator) -> Sums:
    context = model.encode(batch["source"], mask=batch["source_mask"])
    arguments = {"context": context, "context_mask": batch["source_mask"]}
    nats, right, predicted = model.decoder.token_losses(batch["target"], batch["target_mask"], **arguments)
    return Sums(float(nats.double().sum()), int(right.sum()), len(predicted))
