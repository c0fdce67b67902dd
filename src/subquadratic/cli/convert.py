"""`subq convert`: a checkpoint of a published package into a model of ours, or a model of ours for transformers or ONNX Runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..training.outputs import check_folder
from ..training.status import status
from .options import nearest, parse
from .text_io import OutputError, print_text

PACKAGES = ("performer_pytorch", "linformer", "fast_transformer_pytorch", "feedback_transformer_pytorch", "perceiver_ar_pytorch")
EXAMPLES = """\
examples:
  subq convert old.pt --from performer_pytorch --out models/old
  subq convert old.pt --from performer_pytorch --out models/old --hints.heads 8 --hints.causal true
  subq convert runs/performer-1 --to huggingface --out models/performer    # for AutoModelForCausalLM.from_pretrained
  subq convert runs/performer-1 --to onnx --out models/performer-onnx      # for subquadratic.export.OnnxModel.load
"""
TARGETS = ("huggingface", "onnx")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Turn a checkpoint of one of the published packages into a saved model (nothing in the file is executed), or a run into a folder for
    transformers or ONNX Runtime."""

    file: str
    """File written by torch.save (a state dict, or a dict that contains one), or a .safetensors file; with --to, a run folder or any folder
    that save_pretrained wrote."""
    package: str | None = None
    """Package it comes from: performer_pytorch, linformer, fast_transformer_pytorch, feedback_transformer_pytorch, perceiver_ar_pytorch."""
    to: str | None = None
    """huggingface: a folder that AutoModel.from_pretrained and AutoTokenizer.from_pretrained of transformers open; onnx: graphs for ONNX
    Runtime, which subquadratic.export.OnnxModel runs."""
    out: str
    """Folder to write."""
    overwrite: bool = False
    """Replace the model in the folder, if it is one of this package; other files there stay."""
    threads: int | None = None
    """Number of threads. Default: one per core."""
    hints: dict[str, Any] = field(default_factory=dict)
    """Options of the model that the weights do not reveal, as --hints.NAME VALUE."""


def run(argv: Sequence[str]) -> int:
    renamed = {"package": "from"}
    options = parse(ConvertOptions, argv, verb="convert", examples=EXAMPLES, positional="file", renamed=renamed)
    file = Path(options.file).expanduser()
    if options.to is not None:
        return _for_others(file, options)
    if options.package is None:
        raise ValueError(
            f"--from is required, the package of the checkpoint: {', '.join(PACKAGES)}; or --to {' or '.join(TARGETS)}, for a run of ours"
        )
    if not file.is_file():
        raise ValueError(f"file: {'not a file' if file.exists() else 'no such file'}: {file}")

    out = Path(options.out).expanduser()
    check_folder("out", out)
    if (out / "run.yaml").exists():
        raise ValueError(f"out: {out} holds a run of subq train, whose model would be replaced; name another folder")

    if options.package not in PACKAGES:
        allowed = ", ".join(map(repr, PACKAGES))
        raise ValueError(f"--from must be one of {allowed}, got {options.package!r}{nearest(options.package, PACKAGES)}")

    try:
        with status("converting"):
            from ..compat.convert import convert_checkpoint
            from ..core.threads import use_threads

            use_threads(options.threads)
            convert_checkpoint(file, options.package, out, overwrite=options.overwrite, **options.hints)
    except (ValueError, FileExistsError) as error:
        raise ValueError(_as_flags(str(error))) from error
    except OSError as error:
        raise OutputError(f"out: cannot write {out}: {error.strerror or error}; files there stay as they were") from error
    content = json.loads((out / "config.json").read_text())
    print_text(f"{file} is now the saved model {out}")
    if content["assumed"]:
        spelled = ", ".join(f"{name}={content['options'].get(name)}" for name in content["assumed"])
        print_text(f"assumed, since the weights do not reveal it: {spelled}; if wrong, convert again with --hints.NAME VALUE --overwrite")
    return 0


def _for_others(folder: Path, options: ConvertOptions) -> int:
    if options.to not in TARGETS:
        allowed = ", ".join(map(repr, TARGETS))
        raise ValueError(f"--to must be one of {allowed}, got {options.to!r}{nearest(str(options.to), TARGETS)}")
    for name, given in (("--from", options.package), ("--hints", options.hints), ("--overwrite", options.overwrite)):
        if given and not (name == "--overwrite" and options.to == "onnx"):
            raise ValueError(f"{name} is for checkpoints of published packages, not for --to {options.to}")
    out, extra = Path(options.out).expanduser(), {"huggingface": "hf", "onnx": "onnx"}[options.to]
    check_folder("out", out)
    try:
        with status("converting"):
            from ..core.threads import use_threads

            use_threads(options.threads)
            said = _for_transformers(folder, out) if options.to == "huggingface" else _for_onnx(folder, out, overwrite=options.overwrite)
    except ModuleNotFoundError as error:
        raise ValueError(f"--to {options.to} needs the package {error.name}: pip install 'subquadratic[{extra}]'") from error
    except FileNotFoundError as error:
        raise ValueError(f"file: {error}") from error
    except FileExistsError as error:
        raise ValueError(f"out: {_as_flags(str(error))}") from error
    for line in said:
        print_text(line)
    return 0


def _for_transformers(folder: Path, out: Path) -> list[str]:
    from ..hf.convert import convert

    auto = convert(folder, out)
    return [
        f"{folder} is now the folder {out} for transformers",
        f'go on       {auto}.from_pretrained("{out}", trust_remote_code=True), or import subquadratic.hf and leave the last out',
    ]


def _for_onnx(folder: Path, out: Path, *, overwrite: bool) -> list[str]:
    from ..data.tokenizers.loading import load_tokenizer
    from ..data.tokenizers.values import reads_values
    from ..export import onnx
    from ..heads import EncoderDecoder
    from ..hf.tokenizers import stock_tokenizer
    from ..loading import load

    model, tokenizer = load(folder), load_tokenizer(folder)
    pair, size = isinstance(model, EncoderDecoder), getattr(model, "vocab_size", None)
    stock = None if reads_values(tokenizer) else stock_tokenizer(tokenizer, vocab_size=size, first="bos" if pair else "eos")
    onnx(model, out, tokenizer=stock, overwrite=overwrite)
    return [f"{folder} is now the folder {out} for ONNX Runtime", f'go on       subquadratic.export.OnnxModel.load("{out}")']


def _as_flags(message: str) -> str:
    """What the library says of its arguments, said of the command line."""
    message = re.sub(r"\. Pass (\w+(?:, \w+)*)$", lambda found: f"; give {_hint_flags(found[1].split(', '))}", message)
    message = re.sub(r"^package must be", "--from must be", message)
    message = re.sub(r"package='(\w+)'", r"--from \1", message)
    message = re.sub(r"^out='([^']*)'", r"out: \1", message)
    message = re.sub(r"^(\S+ has .* which would be replaced)", r"out: \1", message)
    return message.replace("pass overwrite=True", "give --overwrite")


def _hint_flags(names: list[str]) -> str:
    return " ".join(f"--hints.{name} VALUE" for name in names)
