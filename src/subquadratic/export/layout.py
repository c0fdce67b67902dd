"""The files of an exported model."""

FORMAT = 1
DESCRIPTION, WEIGHTS, TOKENIZER = "onnx.json", "weights.bin", "tokenizer.json"
GRAPHS = ("forward", "encoder", "extend", "step")


def graph_file(name: str) -> str:
    """Of one of the :data:`GRAPHS`."""
    return f"{name}.onnx"
