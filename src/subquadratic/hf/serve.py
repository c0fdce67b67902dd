"""One model behind the OpenAI API: the server of `transformers serve`, told which model there is, with a queue that ends somewhere.

That server finds models by name, in the cache of the hub or on disk, and their classes among those of transformers. Here it is given the
model: it loads nothing else whatever a request says, and runs no code from a folder. Its requests are computed one after another.
"""

from __future__ import annotations

import functools
import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai  # noqa: F401 - the server needs it, and does not name what is missing
import torch
import uvicorn
from fastapi import HTTPException
from jinja2 import TemplateError
from starlette.responses import JSONResponse
from transformers import AutoTokenizer, StoppingCriteriaList
from transformers.cli.serve import Serve
from transformers.cli.serving import model_manager
from transformers.utils.logging import disable_progress_bar

from .causal_lm import SubquadraticForCausalLM
from .tokenizers import stock_tokenizer, stop_tokens

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LAST_SECONDS = 3  # how long requests under way may go on once the server is told to stop; then they end with what they have


class OneModel(model_manager.ModelManager):
    """The stock manager, for a model that is there already."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **stock: Any) -> None:
        self._pair = model, tokenizer
        super().__init__(**stock)

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """The name as it is: there are no revisions."""
        return model_id

    def load_model_and_processor(  # type: ignore[override]
        self, model_id_and_revision: str, progress_callback: Callable[[dict[str, Any]], None] | None = None, **unused: Any
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """The model and its tokenizer.

        Raises:
            HTTPException: 404, for another name.
        """
        self._require_known(model_id_and_revision)
        if progress_callback is not None:
            progress_callback({"status": "ready", "model": self.force_model, "cached": True})
        return self._pair

    def load_model_streaming(self, model_id_and_revision: str, gguf_file: str | None = None) -> Any:
        """What /load_model streams.

        Raises:
            HTTPException: 404, for another name: before the answer begins, which could not become an error any more.
        """
        self._require_known(model_id_and_revision)
        return super().load_model_streaming(model_id_and_revision, gguf_file)

    def _require_known(self, name: str) -> None:
        if name != self.force_model:
            raise HTTPException(404, f"there is no model {name!r} here, only {self.force_model!r}")

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:  # type: ignore[override]
        """What /v1/models lists."""
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "subquadratic"}]


class BoundedQueue:
    """Answers 503 to a request for work where `most` are being computed or wait; clients of OpenAI's try again by themselves."""

    def __init__(self, app: ASGIApp, most: int, generating: Interruptible) -> None:
        self.app, self.most, self.taken, self.generating = app, most, 0, generating

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        if self.taken >= self.most:
            full = _error(503, f"the queue is full: {self.most} requests are being computed or wait; try again", {"Retry-After": "1"})
            return await full(scope, receive, send)
        self.taken += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.taken -= 1


class Interruptible:
    """`generate` of a model, which ends after the next token once `interrupt` was called."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._generate: Any = model.generate
        self._interrupted, self._running = threading.Event(), threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def stop(tokens: torch.Tensor, scores: Any) -> torch.Tensor:
            return torch.full((len(tokens),), self._interrupted.is_set(), device=tokens.device)

        if kwargs["input_ids"].shape[-1] == 0:  # the beginning of a document, which `generate` writes where it is given nothing
            kwargs = {name: value for name, value in kwargs.items() if name not in ("input_ids", "attention_mask")}
        with self._running:
            return self._generate(*args, stopping_criteria=StoppingCriteriaList([stop]), **kwargs)

    def interrupt(self) -> None:
        """From now on no text gets longer than by a token."""
        self._interrupted.set()

    def wait(self, seconds: float) -> None:
        """Until nothing runs, or so long: PyTorch does not survive a thread that computes while Python ends."""
        if self._running.acquire(timeout=seconds):
            self._running.release()


class _Unstarted(Serve):
    """`transformers serve` up to the point where it would listen."""

    def start_server(self) -> None:
        """Nothing."""


def open_folder(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The causal model in a folder of this package, a run's or any other, on the GPU if there is one, and its tokenizer: the folder's own
    if it has a chat template, else one made of what the model was trained with.

    Raises:
        ValueError: the model or the tokenizer in the folder is none of text.
    """
    disable_progress_bar()  # of a file that is there in a moment
    model = SubquadraticForCausalLM.from_pretrained(folder).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if _has_chat_template(Path(folder)):
        return model, AutoTokenizer.from_pretrained(folder)  # type: ignore[return-value]
    return model, stock_tokenizer(folder, vocab_size=model.config.vocab_size, max_length=model.config.position_limit)


def _has_chat_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (settings.is_file() and "chat_template" in json.loads(settings.read_text("utf-8")))


def build_app(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, name: str, queue: int) -> BoundedQueue:
    """The application that `serve` runs, for any ASGI server.

    Args:
        model: any causal language model; `generate` and its configuration are changed: it stops where the tokenizer says, and samples
            unless a request has the temperature 0, as clients of this API expect.
        name: what requests call the model.
        queue: how many requests are taken at once, the one that is computed included.
    """
    settings = model.generation_config
    ends = settings.eos_token_id
    others = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    settings.eos_token_id = list(dict.fromkeys([*stop_tokens(tokenizer), *others]))
    settings.pad_token_id, settings.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
    settings.do_sample = True

    serving: Any = model_manager
    stock = serving.ModelManager
    serving.ModelManager = functools.partial(OneModel, model, tokenizer)
    try:  # it makes its manager by that name
        app: Any = _Unstarted(force_model=name, non_blocking=True, log_level="error").server.config.app
    finally:
        serving.ModelManager = stock
    app.add_exception_handler(HTTPException, lambda request, error: _error(error.status_code, error.detail))
    for wrong in (ValueError, TemplateError):  # what the model, the tokenizer or the chat template cannot take
        app.add_exception_handler(wrong, lambda request, error: _error(400, str(error)))
    model.generate = generating = Interruptible(model)  # type: ignore[assignment]
    return BoundedQueue(app, queue, generating)


class _Server(uvicorn.Server):
    """One that does not wait for ever for texts that are being written when it is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As of uvicorn, with an end to `generate`."""
        app: Any = self.config.app
        generating = app.generating
        last = threading.Timer(LAST_SECONDS, generating.interrupt)
        last.start()
        await super().shutdown(sockets)
        last.cancel()
        generating.interrupt()


def serve(app: BoundedQueue, listening: socket.socket) -> int:
    """Answer requests at a socket until SIGINT or SIGTERM comes, which is returned. Requests under way have some seconds to end then."""
    received: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in wanted}
    try:  # uvicorn sends itself the signal again once it has stopped
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2 * LAST_SECONDS)
        _Server(config).run(sockets=[listening])
    finally:
        app.generating.interrupt()
        app.generating.wait(60)
        for number, handler in before.items():
            signal.signal(number, handler)
    return received[0] if received else signal.SIGINT


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as clients of the API read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers)
