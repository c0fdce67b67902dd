"""The folder of a result: the student as transformers saves it, whatever else the original's folder had, and what was measured."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...core.plain_json import to_json
from ...heads.files import CONFIG
from .models import Pair, transformer_folder
from .report import page

REPORT, PAGE = "distil.json", "README.md"
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".pt", ".pth", ".index.json")
OTHERS = ("onnx", "openvino", "coreml", ".git", ".gitattributes", "checkpoints")


def save(pair: Pair, source: Path, out: Path, content: dict[str, Any]) -> None:
    """Write the folder whole or not at all: beside its place, and then renamed.

    Raises:
        FileExistsError: if something other than an earlier result is there by now.
        OSError: if it cannot be written.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:100]}."))
    try:
        fill(pair, source, temporary, content)
        _open_up(temporary)
        _put(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fill(pair: Pair, source: Path, folder: Path, content: dict[str, Any]) -> None:
    """Everything of a result, in an empty folder."""
    copy_rest(source, folder)
    inner = folder / transformer_folder(source)
    inner.mkdir(exist_ok=True)
    pair.student.save_pretrained(inner)  # type: ignore[operator]
    (folder / PAGE).write_text(page(content, sentences=(source / "modules.json").is_file()), encoding="utf-8")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    (folder / REPORT).write_text(to_json({**content, "files": [*files, REPORT]}, indent=2) + "\n", encoding="utf-8")


def copy_rest(source: Path, folder: Path) -> None:
    """Tokenizer, pooling and what else there is, but for weights, the model's configuration and its page."""

    def left_out(place: str, names: list[str]) -> set[str]:
        top, inner = Path(place) == source, Path(place) == source / transformer_folder(source)
        weights = {name for name in names if name in OTHERS or name.endswith(WEIGHTS)} if top or inner else set()
        return weights | ({PAGE, REPORT} if top else set()) | ({CONFIG} if inner else set())

    shutil.copytree(source, folder, ignore=left_out, dirs_exist_ok=True)


def earlier_result(folder: Path) -> bool:
    """Whether a folder holds a result of `distil` and nothing else."""
    try:
        files = set(json.loads((folder / REPORT).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(str(path.relative_to(folder)) in files for path in folder.rglob("*") if not path.is_dir())


def _open_up(folder: Path) -> None:
    """Modes as the umask has them: mkdtemp, and safetensors, write for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _put(temporary: Path, out: Path) -> None:
    """Move a finished folder to its place, where an earlier result or nothing is."""
    if out.is_dir() and any(out.iterdir()):
        if not earlier_result(out):
            raise FileExistsError(f"{out} holds what no distillation wrote, and would be lost; the result is not saved")
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:100]}."))
        os.rename(out, old / "old")
        os.rename(temporary, out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, out)  # onto an empty folder, too
