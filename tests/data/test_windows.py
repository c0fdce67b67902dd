import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from subquadratic.data import Windows

TOKENS = np.arange(10, dtype=np.uint16)


@pytest.mark.parametrize(
    ("length", "stride", "offset", "starts"),
    [
        (3, None, 0, [0, 3, 6]),
        (3, 2, 0, [0, 2, 4, 6]),
        (5, None, 0, [0, 5]),
        (5, None, 1, [1]),
        (10, None, 0, [0]),
        (1, 4, 2, [2, 6]),
    ],
)
def test_every_whole_window_is_there(length: int, stride: int | None, offset: int, starts: list[int]) -> None:
    windows = Windows(TOKENS, length=length, stride=stride, offset=offset)
    assert [windows[i].tolist() for i in range(len(windows))] == [list(range(s, s + length)) for s in starts]
    assert windows[-1].equal(windows[len(windows) - 1])
    assert windows[0].dtype == torch.int64
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_memory_map_is_read_where_it_lies(tmp_path: Path) -> None:
    TOKENS.tofile(tmp_path / "tokens.bin")
    windows = Windows(np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r"), length=4)
    assert windows[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("start", [0, 1, 4, 5000])
def test_a_worker_gets_the_file_and_not_its_content(tmp_path: Path, start: int) -> None:
    np.arange(10_000, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    tokens = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r", offset=2 * 3000, shape=(7000,))[start:]
    windows = Windows(tokens, length=10, offset=1)
    packed = pickle.dumps(windows)
    assert len(packed) < 1000
    copied = pickle.loads(packed)
    assert len(copied) == len(windows)
    assert copied[3].tolist() == windows[3].tolist() == list(range(3031 + start, 3041 + start))
    assert pickle.loads(pickle.dumps(copied))[3].equal(windows[3])


def test_workers_read_what_the_process_reads(tmp_path: Path) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    windows = Windows(np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r"), length=10)
    found = torch.cat(list(DataLoader(windows, batch_size=5, num_workers=1)))
    assert found.flatten().tolist() == list(range(100))
    assert pickle.loads(pickle.dumps(Windows(TOKENS, length=3)))[2].tolist() == [6, 7, 8]


@pytest.mark.parametrize(("length", "offset"), [(11, 0), (5, 6)])
def test_too_little_text_is_refused_with_the_length_it_needs(length: int, offset: int) -> None:
    with pytest.raises(ValueError, match="needs at least 11 tokens, got 10"):
        Windows(TOKENS, length=length, offset=offset)


@pytest.mark.parametrize("options", [{"length": 0}, {"length": 1, "stride": 0}, {"length": 1, "offset": -1}])
def test_sizes_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Windows(TOKENS, **options)
