"""The files of an exported model."""

FORMAT = 1
DESCRIPTION, WEIGHTS = "onnx.json", "weights.bin"


def graph_file(name: str) -> str:
    """Of the graph "forward", "extend" or "step"."""
    return f"{name}.onnx"
