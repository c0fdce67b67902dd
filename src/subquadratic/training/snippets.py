"""The Python lines of a run's page: they load its model from anywhere and print what it makes of something, by the kind of problem."""

from __future__ import annotations

from pathlib import Path

from .options import TrainOptions

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
tokens = torch.from_numpy(tokenizer.encode("for name in names:").astype("int64"))[None]
masked = torch.zeros_like(tokens, dtype=torch.bool)
masked[:, 2:5] = True  # to be filled in
print(tokenizer.decode(fill(model, tokens, masked)[0]))
"""
CLASSIFIES = """\
import json
import torch
from subquadratic.data import load_tokenizer

tokens = torch.from_numpy(load_tokenizer(folder).encode("a text").astype("int64"))[None]
with torch.no_grad():
    probabilities = model(tokens).softmax(dim=-1)[0]
labels = json.loads((folder / "run.json").read_text())["corpus"]["labels"]
print({label: round(float(p), 3) for label, p in zip(labels, probabilities)})
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
    """The whole of it. The folder is named below the home folder where it is there, and in full elsewhere."""
    place = folder.absolute()
    try:
        named = f'Path("~/{place.relative_to(Path.home()).as_posix()}").expanduser()'
    except (ValueError, RuntimeError):
        named = f'Path("{place.as_posix()}")'
    imports, _, rest = body.partition("\n\n")
    return f"""\
from pathlib import Path

import subquadratic as sq
{imports}

folder = {named}  # where the run was made; change it if it has moved
model = sq.{model}.from_pretrained(folder)
{rest}"""


def of_task(body: str, options: TrainOptions) -> str:
    """The lines for a synthetic task."""
    more = "".join(f", {name}={value!r}" for name, value in options.task_options.items())
    masked, where = ("", "comes next") if options.causal else (', masked=item["scored"][None]', "stands there")
    return body.format(task=options.task, length=options.context, seed=options.seed, options=more, masked=masked, where=where)
