"""The process that computes: it answers one request a line, and tells how far it is in between.

A comparison's own process stays small and whole: what runs out of memory, crashes or is killed here is one failed entry there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

FATAL = (KeyboardInterrupt, SystemExit)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job ignores Ctrl-C, but one sent here is meant
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def write(**content: Any) -> None:
        print(json.dumps(content), file=channel, flush=True)

    first = json.loads(sys.stdin.readline())
    began = time.monotonic()
    from ..benchmark.memory import end_with

    end_with(first["parent"])
    from ..core.free_memory import keep_freed_memory
    from .options import CompareOptions
    from .tasks import Session

    keep_freed_memory()
    loading = time.monotonic() - began
    session: Session | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if session is None:
                session = Session(CompareOptions(**first["options"]), lambda **values: write(progress=values), loading=loading)
            write(answer=getattr(session, request["do"])(**request["with"]))
        except FATAL:
            write(error="interrupted", kind="KeyboardInterrupt")
            return
        except Exception as error:  # also of somebody else's model
            traceback.print_exc()
            write(error=_said(error), kind=type(error).__name__)


def _said(error: Exception) -> str:
    from ..costs.memory import out_of_memory

    known = {kind.__name__ for kind in type(error).__mro__} & {"ValueError", "TrainingError"}
    said = None if known else out_of_memory(error)
    text = " ".join(str(error).split()).replace("--context", "--length") or "no message"  # the name that it has here
    return said or (text if known else f"{type(error).__name__}: {text}")[:600]


if __name__ == "__main__":
    main()
