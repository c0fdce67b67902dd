"""Processes that are started, answer, fail, are ended, and end with the one that asked."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import subquadratic as sq
from subquadratic.comparison.measuring.worker import FORKS, Worker

SMALL = {"source": "ours", "config": sq.FastformerConfig(dim=8, depth=1, heads=1).to_dict()}
PROBE: dict[str, Any] = {"task": "probe", "length": 40, "vocab_size": 11, "device": "cpu", "threads": 1, "spec": SMALL}
SLOW = {"source": "ours", "config": sq.FeedbackTransformerConfig(dim=8, depth=1, heads=1, segment_length=1, memory_length=8).to_dict()}
LONG = {**PROBE, "spec": SLOW, "length": 1 << 19}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as found:
        yield found


def test_requests_are_answered_one_after_another(worker: Worker) -> None:
    for length in (40, 41):
        told, trouble = worker.ask({**PROBE, "length": length}, timeout=60)
        assert trouble == "" and any(message.get("bytes", 0) > 0 for message in told)


def test_what_fails_says_why_and_the_next_request_is_answered(worker: Worker) -> None:
    unknown = {"source": "ours", "config": {"model_type": "perfomer"}}
    assert worker.ask({**PROBE, "spec": unknown}, timeout=60)[1].startswith("failed: ValueError: model_type must be")
    vast = {"source": "ours", "config": sq.FastformerConfig(dim=1 << 19, depth=1, heads=1).to_dict()}
    assert worker.ask({**PROBE, "spec": vast}, timeout=60)[1].startswith("failed: out of memory")
    assert worker.ask(PROBE, timeout=60)[1] == ""


def test_what_takes_too_long_is_ended(worker: Worker) -> None:
    began = time.monotonic()
    assert worker.ask(LONG, timeout=1.0)[1] == "took more than 1 s"
    assert time.monotonic() - began < 5
    assert worker.ask(PROBE, timeout=60)[1] == ""


@pytest.mark.skipif(not FORKS, reason="a server that forks")
def test_a_process_that_the_system_ends_is_told_of(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    send = worker._send

    def killing(request: dict[str, Any]) -> dict[str, Any]:
        answer = send(request)
        os.kill(answer["pid"], signal.SIGKILL)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_send", killing)
        assert worker.ask(LONG, timeout=60)[1] == "the system ended its process (out of memory?)"
    assert worker.ask(PROBE, timeout=60)[1] == ""


def test_a_server_that_is_gone_is_started_again(worker: Worker) -> None:
    assert worker._server is not None or worker.ask(PROBE, timeout=60)[1] == ""
    if worker._server is not None:
        worker._server.kill()
        worker._server.wait()
        told, trouble = worker.ask(PROBE, timeout=60)
        assert told == [] and trouble.startswith("no process could be started")
    assert worker.ask(PROBE, timeout=60)[1] == ""


@pytest.mark.skipif(not FORKS, reason="a limit that Linux has")
def test_an_allocation_beyond_the_free_memory_fails_in_the_process_that_asked_for_it() -> None:
    program = """
        import torch
        from subquadratic.comparison.measuring import worker
        from subquadratic.costs.memory import out_of_memory
        worker.available_memory = lambda: 300_000_000
        worker._keep_within_memory()
        kept = [torch.ones(25_000_000)]
        try:
            kept += [torch.ones(25_000_000) for _ in range(3)]
        except RuntimeError as error:
            print(out_of_memory(error))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("out of memory: there was no room for another 0.1 GB"), done.stderr


@pytest.mark.skipif(not FORKS, reason="looks into /proc")
def test_processes_end_with_the_one_that_asked(tmp_path: Path) -> None:
    """Killed outright, it can end nothing itself."""
    program = f"""
        from subquadratic.comparison.measuring.worker import Worker
        send = Worker._send
        def telling(self, request):
            answer = send(self, request)
            print(self._server.pid, answer["pid"], flush=True)
            return answer
        Worker._send = telling
        Worker().ask({LONG!r}, timeout=600)
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    others = [Path(f"/proc/{pid}") for pid in parent.stdout.readline().split()]
    assert len(others) == 2 and all(other.exists() for other in others)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(other.exists() for other in others) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(other.exists() for other in others)
