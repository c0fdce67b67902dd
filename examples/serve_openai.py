"""A trained model behind the OpenAI API: the server in this process, on a free port of the loopback, and the `openai` package as client.

A byte model learns source code of Python's standard library. A client asks what models there are, and has a text written at once, the same
text streamed, and the same eight times at once.

Prints the streamed text as it comes, how many parts it came in, whether all ways gave the same, and the texts a second of eight at once.

On two cores: 27 seconds, beside other programs; 41 parts, 14 texts of 40 bytes a second.
"""

import argparse
import socket
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import torch
import uvicorn

import subquadratic as sq
from subquadratic.hf.serve import build_app, open_folder


def train(steps: int, length: int = 256) -> sq.LanguageModel:
    """A model of source code."""
    torch.manual_seed(0)
    code = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60])
    text, model = torch.tensor(list(code)), sq.LanguageModel(sq.GatedLinearConfig(dim=64, depth=2, heads=2), vocab_size=260)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model.loss(text[torch.randint(0, len(text) - length, (8, 1)) + torch.arange(length)]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@contextmanager
def served(folder: str) -> Iterator[str]:
    """The address of a server in a thread of its own, as long as the context is open; `subq serve FOLDER` is the same in a process."""
    app = build_app(*open_folder(folder), name="tiny", queue=16)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, serve, ask and report; the figures printed."""
    (parser := argparse.ArgumentParser(description=__doc__)).add_argument("--steps", type=int, default=120)
    with tempfile.TemporaryDirectory() as folder:
        train(parser.parse_args(argv).steps).save_pretrained(folder)
        with served(folder) as address, openai.OpenAI(base_url=address, api_key="none") as client, ThreadPoolExecutor(8) as pool:
            print(f"{address} has {', '.join(model.id for model in client.models.list())}")
            asked = {"model": "tiny", "prompt": "def __init__(", "max_tokens": 40, "temperature": 0}
            whole, parts = client.completions.create(**asked).choices[0].text, []
            for part in client.completions.create(**asked, stream=True):
                parts.append(part.choices[0].text if part.choices else "")
                print(parts[-1], end="", flush=True)
            began = time.perf_counter()
            together = list(pool.map(lambda _: client.completions.create(**asked).choices[0].text, range(8)))
            speed = 8 / (time.perf_counter() - began)
    same = {whole} == {"".join(parts), *together}
    print(f"\n{len(parts)} parts; all texts are the same: {same}; {speed:.0f} texts a second, eight at once")
    return {"parts": len(parts), "same": same, "speed": speed}


if __name__ == "__main__":
    main()
