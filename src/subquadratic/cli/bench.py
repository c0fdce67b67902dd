"""`subq bench`: what operations, layers and models cost on this machine, compared with other packages and with the hardware's limits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..benchmark.cases import Case, Sizes, label
from ..benchmark.suites import only_against, registry, select, suite
from .options import parse
from .text_io import notify, print_text

if TYPE_CHECKING:
    from ..benchmark.results import Run

SEVERAL = ("cases", "lengths", "against", "plot")  # flags that may have several values
NARROW = 140  # columns where standard output is no terminal
EXAMPLES = """\
examples:
  subq bench                                              some models at 1,024 tokens, in two minutes
  subq bench --list                                       every case there is
  subq bench --cases 'model/performer/*' --lengths 4096 --against published
  subq bench --suite everyday --out results               padded batches, windows, decoding, growth
  subq bench --suite targets --out results                what the models are meant to reach, and whether they do
  subq bench --suite full --out results --resume          everything; continues where it was stopped
  subq bench --plot results/results.json                  table and plots again, without measuring
"""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure time and memory on this machine, interleaved with other packages, and compare them with the hardware's limits."""

    suite: Literal["quick", "everyday", "targets", "lengths", "full"] = "quick"
    """quick: some models at one length. everyday: padded batches, the defaults of `subq train`, decoding, and how costs grow; half an hour.
    targets: what the models are meant to reach. lengths: a training step up to 64k tokens, and a
    new token after up to 100,000. full: targets, lengths, and a step on a million tokens."""
    cases: str | None = None
    """Cases to run instead of a suite: names or patterns, such as 'model/*/train/4096'."""
    list: bool = False
    """List the names of all cases, or of those that --cases selects, without measuring."""
    lengths: str | None = None
    """Sequence lengths to use instead, for --cases and the suites quick and lengths."""
    dim: int = 256
    """Width of the models."""
    depth: int = 4
    """Number of layers."""
    heads: int = 4
    """Number of attention heads."""
    against: str = "all"
    """Competitors: all, none, or some of published, x-transformers, exact, sdpa, fla, self, unpadded."""
    rounds: int | None = None
    """Rounds per case. Default: a few, fewer for slow cases."""
    memory: bool = True
    """Also measure peak memory, each competitor in its own process."""
    keep_memory: bool = True
    """Keep freed memory for the next call, as `subq train` does. false: return it to the system, as glibc does by default."""
    threads: int | None = None
    """Number of threads, at most 8 per core (100 if that is more). Default: PyTorch's own choice."""
    device: str = "cpu"
    """Device: cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of weights and activations."""
    out: str | None = None
    """Folder for results.json (written after every case), table.md and plots."""
    resume: bool = False
    """Skip the cases that --out already holds results of, measured with the same code."""
    overwrite: bool = False
    """Measure everything again and replace the results in --out."""
    plot: str | None = None
    """Measure nothing: write the table and plots of these results.json files, to --out or to the folder of the first."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that do not go together."""
        for name in ("rounds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if value is not None and value > 2**20:
                raise ValueError(f"{name} must be at most {2**20:,}, got {value:,}")
        if self.resume and self.out is None:
            raise ValueError("resume needs --out, the folder with the results to continue")
        if self.resume and self.overwrite:
            raise ValueError("resume continues the results in --out, and overwrite replaces them; leave out one of the two")
        if self.device not in ("cpu", "cuda") and not self.device.startswith("cuda:"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")


def run(argv: Sequence[str]) -> int:
    options = parse(BenchOptions, gathered(argv), verb="bench", examples=EXAMPLES)
    options.check()
    if options.plot is not None:
        return _redraw(options.plot.split(","), options.out)
    chosen = choose(options)
    if options.list:
        print_text("\n".join(_listed(chosen)) + "\n")
        return 0
    return _measure(options, chosen)


def gathered(argv: Sequence[str]) -> Sequence[str]:
    """`--cases A B` as `--cases A,B`, for every flag that may have several values."""
    words: list[str] = []
    several = False
    for word in argv:
        if word.startswith("--"):
            several = word[2:] in SEVERAL
            words.append(word)
        elif several and words and not words[-1].startswith("--"):
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def choose(options: BenchOptions) -> list[Case]:
    """The cases that the options name.

    Raises:
        ValueError: an unknown case or competitor, with the nearest name, or a length that is none.
    """
    sizes = Sizes(dim=options.dim, depth=options.depth, heads=options.heads)
    lengths = None if options.lengths is None else [_length(word) for word in options.lengths.split(",")]
    asked: dict[str, Any] = {"sizes": sizes, "lengths": lengths, "cuda": options.device.startswith("cuda")}
    if options.cases is not None or options.list:
        cases = select((options.cases or "*").split(","), registry(**asked))
    else:
        cases = suite(options.suite, **asked)
    if options.against != "all":
        against = [] if options.against == "none" else options.against.split(",")
        cases = [only_against(case, against) for case in cases]
    if options.rounds is not None:
        cases = [dataclasses.replace(case, rounds=options.rounds, least=options.rounds) for case in cases]
    return cases


def _length(word: str) -> int:
    text = word.strip().lower().replace("_", "")
    count = text[:-1] if text.endswith("k") else text
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"lengths must be numbers such as 1024 or 16k, got {word!r}")
    return int(count) * (1024 if text.endswith("k") else 1)


def _listed(cases: list[Case]) -> Iterator[str]:
    width = max(len(case.name) for case in cases)
    for case in cases:
        yield f"{case.name:<{width}}  {', '.join(label(side, case) for side in case.sides)}"


def _measure(options: BenchOptions, cases: list[Case]) -> int:
    import torch

    from ..benchmark.report import result_table, target_table
    from ..benchmark.results import Run
    from ..benchmark.run import measure
    from ..benchmark.work import Setting
    from ..core.backend_info import backend_info

    out = None if options.out is None else _check_out(Path(options.out).expanduser(), options)
    notify(f"computes    {dataclasses.replace(backend_info(), threads=options.threads or torch.get_num_threads())}\n")
    finished = Run(machine={}, settings={"device": options.device})
    try:
        with _progress() as show:
            finished = measure(
                cases,
                setting=Setting(device=options.device, dtype=getattr(torch, options.dtype), keep_memory=options.keep_memory),
                threads=options.threads,
                memory=options.memory,
                out=out,
                resume=options.resume,
                show=show,
                done=finished.add,
            )
    finally:  # of what there is by now, also after Ctrl-C
        if finished.results:
            _print(result_table(finished.results))
            targets = target_table(finished)
            if targets is not None:
                _print(targets)
        if out is not None:
            _write(out)
    names = {case.name for case in cases}
    return 1 if any(result.refused for result in finished.results if result.case.name in names) else 0


def _check_out(folder: Path, options: BenchOptions) -> Path:
    """`folder`, if results may be written there.

    Raises:
        ValueError: it cannot be written, or holds something that is not to be replaced.
    """
    from ..benchmark.results import NAME, load

    _check_place(folder)
    if (folder / NAME).exists() and not options.resume:
        count = len(load(folder / NAME).results)
        if count and not options.overwrite:
            raise ValueError(
                f"out: {folder / NAME} holds {count:,} results; continue with --resume, replace with --overwrite, or name another folder"
            )
    return folder


def _check_place(folder: Path) -> None:
    """Raises ValueError where the folder cannot be written, or has files of those names that are none of ours."""
    from ..benchmark.plots import DRAWINGS
    from ..benchmark.report import TITLE
    from ..benchmark.results import NAME, load
    from ..training.outputs import check_folder

    check_folder("out", folder)
    table = folder / "table.md"
    if table.exists() and not table.read_text(encoding="utf-8", errors="replace").startswith(TITLE):
        raise ValueError(f"out: {table} was not written by subq bench, and would be replaced; move it, or name another folder")
    if (folder / NAME).exists():
        load(folder / NAME)  # another program's results.json is told here
    elif not table.exists() and any((folder / name).exists() for name in DRAWINGS):
        name = next(name for name in DRAWINGS if (folder / name).exists())
        raise ValueError(f"out: {folder / name} would be replaced, and {folder} has no results of subq bench; name another folder")


def _redraw(files: list[str], out: str | None) -> int:
    """Table and drawings of saved results; cases of later files take the place of those of the same name."""
    from ..benchmark.results import load

    paths = [Path(file).expanduser() for file in files]
    merged = load(paths[0])
    for path in paths[1:]:
        for result in load(path).results:
            merged.add(result)
    folder = paths[0].parent if out is None else Path(out).expanduser()
    _check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _written(merged, folder):
        print_text(f"{path}\n")
    return 0


def _write(folder: Path) -> None:
    """Table and drawings of what the folder's results.json has by now, which may be more than was measured just now."""
    from ..benchmark.results import NAME, load

    if (folder / NAME).exists():
        _written(load(folder / NAME), folder)
        notify(f"results are in {folder}\n")


def _written(run: Run, folder: Path) -> list[Path]:
    from ..benchmark.plots import draw
    from ..benchmark.report import markdown
    from ..heads.files import replace_file

    table = folder / "table.md"
    replace_file(table, lambda file: file.write_text(markdown(run), encoding="utf-8"))
    return [table, *draw(run, folder)]


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else NARROW)
    with console.capture() as text:
        console.print(table)
    print_text("\n".join(line.rstrip() for line in text.get().splitlines()) + "\n")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is going on: a line that changes on a terminal, a line each elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda text: notify(f"{text}\n")
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(text)
