"""The files of a saved model, as far as they can be read, checked and replaced without PyTorch."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # beside weights in several files, as transformers writes a large model
FORMAT = 1
QUANTIZED = ("int8",)  # ways in which weights may be held, under the key "quantize" of config.json
FOR_TRANSFORMERS = ("model_type", "architectures", "auto_map")  # keys of config.json that are not ours: see `.shim`
OPTIONS = {  # ours, in a file that transformers wrote, which has many of its own
    "LanguageModel": {"config", "vocab_size", "max_length", "tie_embeddings"},
    "SequenceClassifier": {"config", "vocab_size", "num_classes", "max_length", "pooling", "labels"},
    "EncoderDecoder": {
        "encoder_config", "decoder_config", "vocab_size", "target_vocab_size", "max_length", "target_max_length", "tie_embeddings",
    },
}  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says, without its format number and what it says to transformers.

    Raises:
        FileNotFoundError, ValueError: if it is missing, not JSON, or of another format.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {CONFIG}")
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or "class" not in content:
        raise ValueError(f"{folder / CONFIG} is not the configuration of a subquadratic model")
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / CONFIG} has another format than {FORMAT}, the one that this version reads")
    for key in FOR_TRANSFORMERS:
        content.pop(key, None)
    if "transformers_version" in content and (ours := OPTIONS.get(str(content["class"]))) is not None:
        content = {key: value for key, value in content.items() if key == "class" or key in ours}
    return content


def missing_files(folder: Path) -> list[str]:
    """Names of what a saved model has and this folder has not; weights in several files, with their index, are weights."""
    weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    return [name for name, there in ((CONFIG, (folder / CONFIG).is_file()), (WEIGHTS, weights)) if not there]


def parts_of_weights(folder: Path, weights: str = WEIGHTS) -> list[Path]:
    """The files of a model in several files, and their index; none where it is in one."""
    parts = rf"{re.escape(weights.removesuffix('.safetensors'))}-\d{{5}}-of-\d{{5}}\.safetensors"
    return [file for file in folder.iterdir() if file.name == f"{weights}.index.json" or re.fullmatch(parts, file.name)]


def check_replaceable(folder: Path) -> None:
    """Whether a model may be saved in a folder: what it would replace must be a model of this package.

    Raises:
        FileExistsError: if config.json or model.safetensors there are something else, another program's model perhaps.
    """
    present = [name for name in (CONFIG, WEIGHTS, INDEX) if os.path.lexists(folder / name)]
    if not present:
        return
    try:
        read_config(folder)
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} has {' and '.join(present)}, which would be replaced, but holds no model of this package ({error}): "
            "choose another folder, or move them away"
        ) from error


def replace_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``target``, then rename it: ``target`` is never half-written."""
    replace_files({target: write})


def replace_files(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    """`replace_file` for files that belong together: none is renamed before all are written, so that a full disk changes none."""
    with contextlib.ExitStack() as stack:
        written = []
        for target, write in writers.items():
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            os.close(handle)
            stack.callback(Path(name).unlink, missing_ok=True)
            write(Path(name))
            written.append((Path(name), target))
        umask = os.umask(0)
        os.umask(umask)
        for temporary, target in written:
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
            temporary.replace(target)
