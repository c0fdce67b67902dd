"""Asking a worker process, and going on without it when it dies."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.threads import sleeping_threads
from .options import CompareOptions

GRACE = 30.0  # seconds in which an interrupted worker writes its checkpoint


class WorkError(Exception):
    """What was asked for failed; `died` where the process ended with it."""

    def __init__(self, text: str, *, kind: str = "", died: bool = False) -> None:
        super().__init__(text)
        self.kind, self.died = kind, died


class Workers:
    """One worker at a time, started when something is asked and there is none.

    Args:
        options: of the comparison.
        log: what the worker and its libraries print goes there; None: nowhere.
    """

    def __init__(self, options: CompareOptions, log: Path | None) -> None:
        self.options, self.log = options, log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, do: str, tell: Callable[[dict[str, Any]], None] = lambda progress: None, **arguments: Any) -> dict[str, Any]:
        """What the worker answers.

        Args:
            do: a method of `tasks.Session`, which gets `arguments`.
            tell: hears how far it is.

        Raises:
            WorkError: it failed, or the process died.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                content = json.loads(line)
                if "progress" in content:
                    tell(content["progress"])
                elif "error" in content:
                    raise WorkError(content["error"], kind=content["kind"])
                else:
                    return content["answer"]
        except BrokenPipeError:
            pass
        raise WorkError(self._why_it_died(), died=True)

    def close(self, *, interrupted: bool = False) -> None:
        """End the worker; one that trains and is `interrupted` writes its checkpoint before."""
        process, self._process = self._process, None
        if process is None:
            return
        if interrupted:
            process.send_signal(signal.SIGINT)
        if process.stdin is not None:
            process.stdin.close()  # ends it also where the signal came as its last run was over
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            log = open(os.devnull if self.log is None else self.log, "a", encoding="utf-8")  # noqa: SIM115  (the process holds it)
            with log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", f"{__package__}.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                    env={**sleeping_threads(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    start_new_session=True,  # Ctrl-C reaches it through `close`, once
                )  # fmt: skip
            assert self._process.stdin is not None
            first = {"parent": os.getpid(), "options": dataclasses.asdict(self.options)}
            self._process.stdin.write(json.dumps(first) + "\n")
            self._process.stdin.flush()
        return self._process

    def _why_it_died(self) -> str:
        process, self._process = self._process, None
        assert process is not None
        status = process.wait()
        if status == -signal.SIGKILL:
            return "its process was killed, probably by the system for want of memory"
        if status < 0:
            return f"its process ended by signal {-status} ({signal.Signals(-status).name})"
        where = "" if self.log is None else f"; see {self.log.name}"
        return f"its process ended with status {status}{where}"
