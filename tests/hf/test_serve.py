"""`subq serve` as clients see it: one server for this file, asked by the `openai` package."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("typer")
pytest.importorskip("openai")

import openai
from tests.data.tokenizers_for_tests import bpe

import subquadratic as sq
from subquadratic.generation.decode import generate
from subquadratic.hf.serve import BoundedQueue, Interruptible, open_folder, serve
from subquadratic.hf.tokenizers import save_tokenizer, stock_tokenizer, stop_tokens

CONFIG = sq.PerformerConfig(dim=16, depth=1, heads=2)
HELLO = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "héllo <|eos|>"}]
FOREVER = 1_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that writes ASCII and ends no text."""
    torch.manual_seed(0)
    model = sq.LanguageModel(CONFIG, vocab_size=260)
    assert model.head is not None
    with torch.no_grad():
        model.head.weight[128:] = 0  # never among the 50 best, of which tokens are drawn
        model.head.weight[:128] *= 20
    folder = tmp_path_factory.mktemp("serve") / "tiny@1"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "subquadratic", "serve", str(model), "--port", "0", "--queue", "3", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        try:
            assert line.startswith("tiny@1 answers at http://127.0.0.1:"), line
            yield line.split()[3].rstrip(";")
            client = openai.OpenAI(base_url=line.split()[3].rstrip(";"), api_key="none", max_retries=0, timeout=60)
            with ThreadPoolExecutor(1) as pool, client:  # a text that is being written ends with what there is
                last = pool.submit(client.completions.create, model="tiny@1", prompt="a", max_tokens=FOREVER)
                time.sleep(0.5)
                server.send_signal(signal.SIGTERM)
                assert last.result().usage.completion_tokens > 10
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
    assert server.returncode == 128 + signal.SIGTERM


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_the_model_is_listed_by_the_name_of_its_folder(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny@1"]


def test_a_chat_streamed_and_whole_is_the_same_text(client: Any, model: Path) -> None:
    asked = dict(model="tiny@1", messages=HELLO, max_tokens=12, temperature=0)
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 12
    prompt = stock_tokenizer(None).apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    assert whole.usage.prompt_tokens == len(prompt)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert len(chunks) > 10 and chunks[-1].choices[0].finish_reason == "length"
    ours = generate(sq.LanguageModel.from_pretrained(model), torch.tensor([prompt]), max_new_tokens=12, temperature=0.0)
    assert bytes(ours[0, len(prompt) :].tolist()).decode(errors="replace") == whole.choices[0].message.content


def test_a_text_is_gone_on_with_as_it_stands(client: Any, model: Path) -> None:
    prompt = "def f(<|eos|>"
    asked = dict(model="tiny@1", prompt=prompt, max_tokens=9)
    answer = client.completions.create(**asked, temperature=0)
    assert answer.usage.prompt_tokens == len(prompt)
    ours = generate(sq.LanguageModel.from_pretrained(model), torch.tensor([list(prompt.encode())]), max_new_tokens=9, temperature=0.0)
    assert answer.choices[0].text == bytes(ours[0, len(prompt) :].tolist()).decode(errors="replace")
    first, second, other = (client.completions.create(**asked, seed=seed).choices[0].text for seed in (1, 1, 2))
    assert first == second != other  # sampled, as clients expect where they say nothing of a temperature
    stopped = client.completions.create(**asked, temperature=0, stop=[answer.choices[0].text[4]])
    assert stopped.choices[0].finish_reason == "stop" and 1 <= stopped.usage.completion_tokens <= 5


def test_an_empty_prompt_is_the_beginning_of_a_document(client: Any, model: Path) -> None:
    answer = client.completions.create(model="tiny@1", prompt="", max_tokens=9, temperature=0)
    ours = generate(sq.LanguageModel.from_pretrained(model), torch.tensor([[258]]), max_new_tokens=9, temperature=0.0)
    assert answer.choices[0].text == bytes(ours[0, 1:].tolist()).decode(errors="replace")


def test_several_clients_at_once_get_what_each_would_alone(address: str) -> None:
    def ask(number: int) -> str:
        with openai.OpenAI(base_url=address, api_key="none", max_retries=50, timeout=60) as client:  # three fit into the queue
            messages = [{"role": "user", "content": f"number {number}"}]
            answer = client.chat.completions.create(model="tiny@1", messages=messages, max_tokens=20, temperature=0)
            return answer.choices[0].message.content

    alone = [ask(number) for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(ask, range(5))) == alone


def test_a_full_queue_says_so_and_one_that_goes_makes_room(client: Any) -> None:
    asked = dict(model="tiny@1", messages=HELLO, max_tokens=FOREVER, stream=True)
    busy = [client.chat.completions.create(**asked) for _ in range(3)]
    with pytest.raises(openai.InternalServerError, match="queue is full: 3 requests") as error:
        client.completions.create(model="tiny@1", prompt="a", max_tokens=1)
    assert error.value.status_code == 503 and error.value.response.headers["retry-after"] == "1"
    assert client.models.list().data  # which is no work
    next(iter(busy[0]))
    for stream in busy:
        stream.close()
    for _ in range(100):
        try:
            assert client.completions.create(model="tiny@1", prompt="a", max_tokens=1).usage.completion_tokens == 1
            break
        except openai.InternalServerError:
            time.sleep(0.1)
    else:
        pytest.fail("the queue stayed full")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(model="other", messages=HELLO), "'tiny@1'; requested 'other'"),
        (dict(model="tiny@1", messages=[{"role": "tool", "content": "1", "tool_call_id": "1"}]), "a role must be"),
        (dict(model="tiny@1", messages=[]), "empty conversation"),
        (dict(model="tiny@1", messages=HELLO, temperature=-1.0), "temperature"),
        (dict(model="tiny@1", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]), "no tools"),
    ],
)
def test_mistakes_are_the_clients_and_told(client: Any, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**asked)


def test_no_request_has_another_model_loaded(client: Any, model: Path) -> None:
    for name in (str(model), "gpt2"):
        with pytest.raises(openai.NotFoundError, match=r"there is no model .* here, only 'tiny@1'"):
            client.post("../load_model", body={"model": name}, cast_to=str)
    assert '"ready"' in client.post("../load_model", body={"model": "tiny@1"}, cast_to=str)
    client.post("../reset", cast_to=object)
    assert client.completions.create(model="tiny@1", prompt="a", max_tokens=1).usage.completion_tokens == 1


@pytest.mark.parametrize("kind", ["bytes", "bpe", "256", "converted", "own template"])
def test_any_folder_of_ours_opens_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = bpe() if kind == "bpe" else None
    rows = {"bpe": bpe().vocab_size, "256": 256}.get(kind, 260)
    sq.LanguageModel(CONFIG, vocab_size=rows, max_length=50).save_pretrained(tmp_path)
    if tokenizer is not None:
        tokenizer.save(tmp_path)
    if kind in ("converted", "own template"):
        save_tokenizer(tokenizer, tmp_path, vocab_size=rows)
    if kind == "own template":
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    found, theirs = open_folder(tmp_path)
    assert not found.training and theirs.pad_token_id < rows and theirs.eos_token_id < rows
    assert theirs("hi")["input_ids"] == ([104, 105] if tokenizer is None else tokenizer.encode("hi").tolist())
    assert len(stop_tokens(theirs)) == 2 and max(stop_tokens(theirs)) < rows
    ids = theirs.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)
    assert len(ids) > 2 or kind == "own template"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "lifespan.startup":
            pass
        await send({"type": "lifespan.startup.complete"})
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    class Never:
        def generate(self) -> None: ...

    before = signal.getsignal(number)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert serve(BoundedQueue(app, 1, Interruptible(Never())), listening) == number  # type: ignore[arg-type]
    assert signal.getsignal(number) is before
