"""Models as files that other programs run: ONNX graphs, and a runner of them that needs no PyTorch."""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .onnx_files import onnx
    from .runner import OnnxEncoderDecoder, OnnxModel

__all__ = ["OnnxEncoderDecoder", "OnnxModel", "onnx"]

__getattr__, __dir__ = on_first_use(__name__, globals(), {"OnnxEncoderDecoder": "runner", "OnnxModel": "runner", "onnx": "onnx_files"})
