"""Every task against a solver that knows its rules from their description alone and reads its items as words."""

import pickle
import statistics
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.data import Task, make_task
from subquadratic.data.task_names import TASK_HELP, TASK_KINDS, TASKS

LENGTHS = [16, 17, 64, 255]
Answers = dict[int, str]  # by place


def solve_copy(words: list[str], task: Task) -> Answers:
    start, middle = words.count("^"), words.index("|")
    return {middle + 1 + i: word for i, word in enumerate(words[start:middle])}


def solve_mirror(words: list[str], task: Task) -> Answers:
    start, middle = words.count("^"), words.index("|")
    return {middle + 1 + i: word for i, word in enumerate(words[start:middle][::-1])}


def solve_recall(words: list[str], task: Task) -> Answers:
    pairs = task.options["pairs"]
    known = dict(zip(words[0 : 2 * pairs : 2], words[1 : 2 * pairs : 2], strict=True))
    assert len(known) == pairs
    answers = {i + 1: known[word] for i, word in enumerate(words) if word in known and i >= 2 * pairs}
    assert len(answers) == pairs, "each key is asked for once"
    return answers


def solve_dyck(words: list[str], task: Task) -> Answers:
    ends = {"(": ")", "[": "]", "{": "}", "<": ">"}
    open_ones: list[str] = []
    closing = False
    answers = {}
    for i, word in enumerate(words):
        if word == "^":
            assert i == 0
        elif word == "=":
            closing = True
        elif word in ends:
            assert not closing and len(open_ones) < task.options["depth"]
            open_ones.append(word)
        else:
            right = ends[open_ones.pop()]
            assert word == right
            if closing or len(open_ones) + 1 == task.options["depth"] > 1:
                answers[i] = right
    assert closing and not open_ones
    return answers


def solve_variables(words: list[str], task: Task) -> Answers:
    program = " ".join(words[: words.index("end")])
    assert set(words[words.index("end") + 1 :]) <= {"_"}
    values: dict[str, int] = {}
    answers, place = {}, 0
    for statement in program.split(" ;")[:-1]:
        parts = statement.split()
        first = place
        place += len(parts) + 1
        if parts[0] == "print":
            answers[first + 2] = str(values[parts[1]])
            continue
        if parts[0] == "if":
            right = values[parts[3]] if parts[3] in values else int(parts[3])
            if not (values[parts[1]] < right if parts[2] == "<" else values[parts[1]] > right):
                continue
            parts = parts[5:]
        if parts[1] == "=":
            assert parts[0] not in values
            values[parts[0]] = int(parts[2])
        else:
            values[parts[0]] += {"++": 1, "--": -1}[parts[1]]
        assert 1 <= values[parts[0]] <= 10
    return answers


def solve_listops(words: list[str]) -> int:
    operations: dict[str, Callable[[list[int]], int]] = {
        "[MIN": min, "[MAX": max, "[SM": lambda v: sum(v) % 10, "[MED": lambda v: int(statistics.median(v)),
    }  # fmt: skip
    stack: list[tuple[str, list[int]]] = [("", [])]
    for word in words:
        if word in operations:
            stack.append((word, []))
        elif word == "]":
            operator, values = stack.pop()
            assert 2 <= len(values) <= 10
            stack[-1][1].append(operations[operator](values))
        else:
            stack[-1][1].append(int(word))
        assert len(stack) <= 11
    assert len(stack) == 1 and len(stack[0][1]) == 1
    return stack[0][1][0]


SOLVERS = {"copy": solve_copy, "mirror": solve_mirror, "recall": solve_recall, "dyck": solve_dyck, "variables": solve_variables}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", SOLVERS)
def test_what_is_scored_is_what_a_solver_knows(name: str, length: int) -> None:
    task = make_task(name, length=length)
    for i in range(60):
        item = task.train[i]
        assert item["tokens"].shape == item["scored"].shape == (length,)
        assert item["tokens"].dtype == torch.int64 and item["scored"].dtype == torch.bool
        words = [task.vocabulary[token] for token in item["tokens"]]
        answers = SOLVERS[name](words, task)
        assert answers and answers == {int(i): words[i] for i in item["scored"].nonzero()}


@pytest.mark.parametrize("length", [8, *LENGTHS, 2000])
def test_listops_is_what_its_expression_evaluates_to(length: int) -> None:
    task = make_task("listops", length=length)
    assert (task.kind, task.num_classes) == ("classification", 10)
    labels = set()
    for i in range(60):
        item = task.train[i]
        assert task.options["min_length"] <= len(item["tokens"]) <= length
        assert solve_listops(task.spell(item["tokens"]).split()) == item["label"]
        labels.add(item["label"])
    assert len(labels) >= 8


def test_listops_takes_every_option_in_a_moment() -> None:
    for options in ({"depth": 1}, {"arguments": 2}, {"depth": 2, "arguments": 3}, {"depth": 3}, {"min_length": 128}):
        task = make_task("listops", length=256, **options)
        for i in range(5):
            solve_listops(task.spell(task.train[i]["tokens"]).split())


@pytest.mark.parametrize("options", [{"kinds": 1}, {"kinds": 6}, {"depth": 1}, {"depth": 2}, {"depth": 20}], ids=str)
def test_dyck_keeps_its_depth_and_kinds(options: dict[str, int]) -> None:
    task = make_task("dyck", length=64, **options)
    for i in range(20):
        words = task.spell(task.train[i]["tokens"]).split()
        depths = [0]
        for word in words[1:]:
            depths.append(depths[-1] + (0 if word == "=" else 1 if word in task.vocabulary[3 : 3 + task.options["kinds"]] else -1))
        assert max(depths) <= task.options["depth"] and min(depths) == depths[-1] == 0


def test_five_variables_and_no_more_than_are_named() -> None:
    task = make_task("variables", length=400, variables=5)
    words = {word for i in range(20) for word in task.spell(task.train[i]["tokens"]).split()}
    assert words == set(task.vocabulary)


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_an_item_depends_on_seed_side_and_number_alone(self, name: str) -> None:
        task, again, other = make_task(name, length=64), make_task(name, length=64), make_task(name, length=64, seed=1)
        for _ in range(2):  # the second time in another order
            assert all(task.train[i]["tokens"].equal(again.train[i]["tokens"]) for i in (5, 0, 3))
        first = [task.train[i]["tokens"].tolist() for i in range(9)]
        assert first != [other.train[i]["tokens"].tolist() for i in range(9)]
        assert first != [task.validation[i]["tokens"].tolist() for i in range(9)]
        assert task.train[-1]["tokens"].equal(task.train[len(task.train) - 1]["tokens"])
        copied = pickle.loads(pickle.dumps(task))
        assert copied.train[3]["tokens"].equal(task.train[3]["tokens"])

    def test_the_digest_says_which_items_they_are(self, name: str) -> None:
        task = make_task(name, length=64)
        assert task.digest == make_task(name, length=64).digest
        others = [make_task(name, length=65), make_task(name, length=64, seed=1), make_task(name, length=64, train_size=5)]
        assert len({task.digest, *(other.digest for other in others)}) == 4
        assert task.digest[:12] in task.describe() and name in task.describe()

    def test_tokens_are_words_of_its_vocabulary(self, name: str) -> None:
        task = make_task(name, length=64)
        assert len(set(task.vocabulary)) == task.vocab_size
        assert all(0 <= int(token) < task.vocab_size for i in range(20) for token in task.train[i]["tokens"])

    def test_sizes(self, name: str) -> None:
        task = make_task(name, length=32, train_size=3, validation_size=2)
        assert (len(task.train), len(task.validation), len([task.train[i] for i in range(3)])) == (3, 2, 3)
        with pytest.raises(IndexError):
            task.train[3]

    def test_what_is_out_of_range_is_refused(self, name: str) -> None:
        for options, message in [
            ({"length": 0}, "length must be an integer of at least 1"),
            ({"length": 2}, "length must be at least"),
            ({"length": 64, "seed": -1}, "seed"),
            ({"length": 64, "train_size": 0}, "train_size"),
            ({"length": 64, "lenght": 3}, "task_options"),
        ]:
            with pytest.raises(ValueError, match=message):
                make_task(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("copy", {"symbols": 0}, "symbols must be an integer of at least 1"),
        ("recall", {"pairs": 20}, "at least 4 \\* pairs = 80"),
        ("recall", {"pairs": 9, "keys": 8}, r"pairs must be at most keys \(8\)"),
        ("recall", {"power": 0}, "power"),
        ("recall", {"power": "x"}, "power"),
        ("dyck", {"depth": 32}, r"depth must be at most \(length - 1\) // 2 = 31"),
        ("listops", {"arguments": 1}, "arguments must be at least 2"),
        ("listops", {"min_length": 60}, "min_length must be at most 32"),
        ("variables", {"variables": "3"}, "variables must be an integer"),
        ("mirrr", {}, "did you mean 'mirror'"),
        ("recall", {"pair": 2}, "did you mean 'pairs'"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(name, length=64, **options)


@settings(max_examples=40)
@given(st.integers(16, 300), st.integers(1, 12), st.integers(0, 2**31))
def test_recall_of_any_size_has_an_answer_for_each_key(length: int, pairs: int, seed: int) -> None:
    task = make_task("recall", length=max(length, 4 * pairs), pairs=pairs, seed=seed, keys=pairs + 1)
    item = task.train[0]
    assert set(solve_recall(task.spell(item["tokens"]).split(), task)) == set(item["scored"].nonzero().flatten().tolist())


def test_names_are_there_without_torch() -> None:
    heavy = "{'torch', 'tokenizers', 'transformers', 'pyarrow', 'zstandard'} & set(sys.modules)"
    code = f"import sys; from subquadratic.data.task_names import TASKS; print(*TASKS, *({heavy}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == list(TASKS) == list(TASK_KINDS) == list(TASK_HELP)
