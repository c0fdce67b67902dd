"""The Python lines of a run's page: they load its model from anywhere and print what it makes of something, by the kind of problem."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import Corpus, NumberTokenizer
from ..data.finding import STDLIB
from ..data.tokenizers.values import reads_values
from ..heads import __all__ as HEADS
from .options import TrainOptions

PYTHON = "def "  # a prompt for a model of Python
VALUES = 8  # of the data, in the lines for a model of integers, numbers or sequences
WRITES = """\
from subquadratic.data import load_tokenizer
from subquadratic.generation import generate_text

print(generate_text(model, load_tokenizer(folder), {prompt!r}, max_new_tokens=200, temperature=0.8))
"""
FILLS = """\
import torch
from subquadratic.data import load_tokenizer
from subquadratic.generation import fill

tokenizer = load_tokenizer(folder)
tokens = torch.from_numpy(tokenizer.encode({text!r}).astype("int64"))[None]
masked = torch.zeros_like(tokens, dtype=torch.bool)
masked[:, 2:5] = True  # to be filled in
print(tokenizer.decode(fill(model, tokens, masked)[0]))
"""
FORECASTS = """\
import numpy as np
import torch
from subquadratic.data import load_tokenizer

bins = load_tokenizer(folder)
known = np.array({known})  # the last numbers that are known
tokens = torch.from_numpy(bins.encode_values(known).astype("int64"))[None]
written = model.generate(tokens, max_new_tokens=24, banned=bins.special)[0, len(known):].cpu()
print(*({numbers}).round(6))
"""
CLASSIFIES = """\
import torch
from subquadratic.data import load_tokenizer

tokens = torch.from_numpy(load_tokenizer(folder).encode("a text").astype("int64"))[None]
with torch.no_grad():
    probabilities = model(tokens).softmax(dim=-1)[0]
print({label: round(float(p), 3) for label, p in zip(model.labels, probabilities)})
"""
TRANSLATES = """\
import torch
from subquadratic.data import load_tokenizer

tokenizer = load_tokenizer(folder)
source = torch.from_numpy(tokenizer.encode("a source text").astype("int64"))[None]
begin = torch.tensor([[tokenizer.bos_token]])
target = model.generate(source, begin, max_new_tokens=60, temperature=0.0, eos_token=tokenizer.eos_token)
print(tokenizer.decode(target[0, 1:]))
"""
SOLVES = """\
import torch
from subquadratic.data import make_task

task = make_task({task!r}, length={length}, seed={seed}{options})
item = task.validation[0]
with torch.no_grad():
    logits = model(item["tokens"][None]{masked})
print(" ".join(task.vocabulary[token] for token in item["tokens"].tolist()))
print(" ".join(task.vocabulary[token] for token in logits[0].argmax(-1).tolist()))  # what it says {where}
"""
SORTS = """\
import torch
from subquadratic.data import make_task

task = make_task({task!r}, length={length}, seed={seed}{options})
item = task.validation[0]
with torch.no_grad():
    print("class", int(model(item["tokens"][None]).argmax()), "and right is", int(item["label"]))
"""


def snippet(folder: Path, *, model: str, body: str) -> str:
    """The whole of it; `body` imports a `model` that is no class of this package's own. The folder is named below the home folder where
    it is there, and in full elsewhere."""
    place = folder.absolute()
    try:
        named = f'Path("~/{place.relative_to(Path.home()).as_posix()}").expanduser()'
    except (ValueError, RuntimeError):
        named = f'Path("{place.as_posix()}")'
    imports, _, rest = body.partition("\n\n")
    kind = f"sq.{model}" if model in HEADS else model
    return f"""\
from pathlib import Path

import subquadratic as sq
{imports}

folder = {named}  # where the run was made; change it if it has moved
model = {kind}.from_pretrained(folder)
{rest}"""


def of_corpus(options: TrainOptions, corpus: Corpus) -> str:
    """The lines for a model of text, integers or numbers."""
    tokenizer, values = corpus.tokenizer, None
    if isinstance(tokenizer, NumberTokenizer):
        numbers = np.asarray(corpus.validation.values[-VALUES:])  # type: ignore[attr-defined]
        values = [float(f"{number:.6g}") for number in numbers[~np.isnan(numbers)]]
        if options.causal:
            decoded = "bins.decode_values(written)"
            return FORECASTS.format(known=values, numbers=f"known[-1] + {decoded}.cumsum()" if tokenizer.difference else decoded)
    known = " ".join(map(str, values or []))
    if not known and (reads_values(tokenizer) or corpus.read_as):  # the letters of FASTA are no English
        known = tokenizer.decode(corpus.validation[:VALUES])
    if options.causal:
        return WRITES.format(prompt=known or (PYTHON if writes_python(options) else "The "))
    return FILLS.format(text=known or "for name in names:")


def writes_python(options: TrainOptions) -> bool:
    """Whether a model learns Python's standard library."""
    return options.data in (None, STDLIB)


def of_task(body: str, options: TrainOptions) -> str:
    """The lines for a synthetic task."""
    more = "".join(f", {name}={value!r}" for name, value in options.task_options.items())
    masked, where = ("", "comes next") if options.causal else (', masked=item["scored"][None]', "stands there")
    return body.format(task=options.task, length=options.context, seed=options.seed, options=more, masked=masked, where=where)
