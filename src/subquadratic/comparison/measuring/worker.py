"""Processes of their own, without loading PyTorch anew for each: a server that has loaded it and computed nothing forks for every request.

A fork starts as fresh as a new Python: no thread computes yet, and nothing has been allocated. Where there is no reliable fork (other
systems than Linux), every request has a new Python.

    with Worker() as worker:
        told, trouble = worker.ask({"task": "probe", ...}, timeout=60)
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, Self

from ...benchmark.memory import end_with, resident
from ...benchmark.timing import reason
from ...core.threads import sleeping_threads
from ...costs.memory import available_memory, out_of_memory

FORKS = sys.platform == "linux"
POLL = 0.01  # seconds between two looks at a child
START = 60.0  # seconds that a server may take to start


class Worker:
    """The parent's side. Requests are answered one at a time; the processes end with the `with` block, or with this process."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[str] | None = None
        self._modules: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, request: dict[str, Any], *, timeout: float) -> tuple[list[dict[str, Any]], str]:
        """What a process told that carried out `request["task"]`, a function of `readings`, and what went wrong; "" for nothing.

        Args:
            request: plain values.
            timeout: seconds, without what it takes to start a server, after which the process is ended.
        """
        try:
            pid = self._send(request)["pid"]
        except RuntimeError as error:
            self._end()
            return [], str(error)
        told: list[dict[str, Any]] = []
        deadline, late = time.monotonic() + timeout, False
        while (message := self._next(deadline - time.monotonic())) is None or not message.keys() & {"exit", "gone"}:
            if message is not None:
                told.append(message)
            elif not late:
                late, deadline = True, time.monotonic() + START
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
            else:
                break  # its end is not told of either
        trouble = f"took more than {timeout:.0f} s" if late else self._trouble(told, message)
        if message is None or "gone" in message or not FORKS:
            self._end()
        return [message for message in told if "error" not in message], trouble

    def start(self, *modules: str) -> None:
        """Load what measuring takes, and these modules, before its time counts. Where every request has a new Python this is of no use."""
        self._modules = modules
        if FORKS:
            self.ask({"task": "ready", "device": ""}, timeout=START)

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first answer of the server, started where none is there: the process that carries out the request.

        Raises:
            RuntimeError: the server does not answer.
        """
        if self._server is None:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # until the server ends
            environment = {**sleeping_threads(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid()), *self._modules],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
            )  # fmt: skip
            threading.Thread(target=_pass_on, args=(self._server.stdout, self._lines), daemon=True).start()
        assert self._server.stdin is not None
        with suppress(BrokenPipeError):
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
        answer = self._next(START)
        if answer is None or "pid" not in answer:
            raise RuntimeError(f"no process could be started to measure in{self._last_error()}")
        return answer

    def _next(self, timeout: float) -> dict[str, Any] | None:
        """The next message, {"gone"} when the server has ended, None where none came in time."""
        try:
            line = self._lines.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None
        return {"gone": True} if line is None else json.loads(line)

    def _trouble(self, told: list[dict[str, Any]], end: dict[str, Any] | None) -> str:
        if told and "error" in told[-1]:
            return f"failed: {told[-1]['error']}"
        status = -1 if end is None else end.get("exit", -1)
        if status == 0:
            return ""
        killed = status == -signal.SIGKILL if os.name != "nt" else False
        return "the system ended its process" + (" (out of memory?)" if killed else self._last_error())

    def _last_error(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _end(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout, self._errors):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._server, self._errors, self._lines = None, None, queue.Queue()


def _pass_on(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    with suppress(ValueError):  # closed
        for line in pipe:
            lines.put(line)
    lines.put(None)


def serve(parent: int, modules: Sequence[str] = ()) -> None:
    """The server's side: requests on standard input, a line each, until it ends or the parent does.

    Args:
        modules: to load before the first request, once for all.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever packages print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    from . import readings  # noqa: F401  # loaded before the fork

    for module in modules:
        importlib.import_module(module)
    if not FORKS:
        end_with(parent)
    for line in sys.stdin:
        request = json.loads(line)
        if not FORKS:
            tell({"exit": _carry_out(request, tell)})
            return
        child = os.fork()
        if child == 0:
            end_with(os.getppid())
            os._exit(_carry_out(request, tell))
        tell({"exit": _wait(child, parent)})


def _carry_out(request: dict[str, Any], tell: Any) -> int:
    from . import readings

    tell({"pid": os.getpid()})
    try:
        if request["device"] == "cpu":
            _keep_within_memory()
        getattr(readings, request["task"])(request, tell)
    except BaseException as error:
        tell({"error": out_of_memory(error) or (reason(error) if isinstance(error, Exception) else type(error).__name__)})
    return 0


def _wait(child: int, parent: int) -> int:
    """The exit status of a child, negative for a signal; ends it, and this process, when the parent has ended."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if os.getppid() != parent:
            os.kill(child, signal.SIGKILL)
            os._exit(1)
        time.sleep(POLL)


def _keep_within_memory() -> None:
    """An allocation that the machine has no room for fails, before the system ends some process, perhaps another one."""
    with suppress(ImportError, ValueError, OSError):  # no such limit here
        import resource

        data = resident("VmData")
        if data is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (data + available_memory(), hard))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
