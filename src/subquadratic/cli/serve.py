"""`subq serve`: a trained model behind the OpenAI API, for whatever speaks it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..training.status import status
from .options import parse
from .text_io import OutputError, print_text

EXAMPLES = """\
examples:
  subq serve runs/performer-1
  subq serve runs/performer-1 --port 9000 --name code --queue 8
  curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" -d '{"model": "performer-1", "prompt": "def "}'
"""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Answer requests to the OpenAI API with a trained model, by the server of transformers; Ctrl-C ends it."""

    run: str
    """Run folder of a causal model of text, or any folder that save_pretrained or subq convert wrote."""
    host: str = "127.0.0.1"
    """Address to listen at. Those that other machines reach need --public."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    public: bool = False
    """Allow an address that other machines reach. The server asks for no password, and does not encrypt."""
    name: str | None = None
    """Name of the model in requests. Default: the name of its folder."""
    queue: int = 32
    """Most requests at once: one is computed, the others wait, and more are answered with the status 503."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        for name, value, good, allowed in (
            ("port", self.port, 0 <= self.port < 2**16, "from 0 to 65535"),
            ("name", self.name, self.name is None or bool(self.name.strip()), "at least one character"),
            ("queue", self.queue, self.queue >= 1, "at least 1"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")


def run(argv: Sequence[str]) -> int:
    options = parse(ServeOptions, argv, verb="serve", examples=EXAMPLES, positional="run")
    options.check()
    family, address = find_address(options.host, options.port, public=options.public)
    folder = _text_model(options.run)

    with listen(family, address) as listening:
        with status("loading the model"):
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all there is lies in the folder
            from ..core.threads import use_threads

            use_threads(options.threads)
            from ..hf.serve import build_app, open_folder, serve

            name = options.name or folder.resolve().name
            app = build_app(*open_folder(folder), name=name, queue=options.queue)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        print_text(f"{name} answers at http://{shown}:{port}/v1; Ctrl-C ends")
        return 128 + serve(app, listening)


def find_address(host: str, port: int, *, public: bool) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where to listen, as a family of addresses and an address.

    Raises:
        ValueError: there is no such host, or other machines reach it and that was not asked for.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host: cannot find {host!r}: {getattr(error, 'strerror', None) or error}") from error
    found = str(address[0])
    if not public and not ipaddress.ip_address(found.partition("%")[0]).is_loopback:
        raise ValueError(f"host: other machines may reach {host}, and the server asks for no password; give --public if they may")
    return family, (found, port)


def listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """A socket that listens at `address`; clients that come before the model is loaded wait.

    Raises:
        OutputError: it is taken, or not this machine's.
    """
    try:
        return socket.create_server(address, family=family)
    except OSError as error:
        raise OutputError(
            f"cannot listen at {address[0]}, port {address[1]}: {os.strerror(error.errno or 0)}; name another --port"
        ) from error


def _text_model(path: str) -> Path:
    """The folder of a causal model of text.

    Raises:
        ValueError: it holds none.
    """
    from ..data.tokenizers.bytes import VALUES_FILE
    from ..evaluation.saved import find_saved, learned_task

    saved = find_saved(path)
    others = {"masked": "fills in masked tokens", "classes": "gives classes", "pairs": "writes a target for a source"}
    what = others.get(str(saved.kind))
    if saved.kind is None:
        what = "is of a published package"
    elif (task := learned_task(saved.folder)) is not None:
        what = f"learned the task {task}"
    elif (saved.folder / VALUES_FILE).is_file():
        what = "reads numbers"
    if what is not None:
        raise ValueError(f"run: the model in {saved.folder} {what}, and serve is for causal models of text")
    return saved.folder
