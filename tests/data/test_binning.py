"""Bins of a series: found on the training side, kept with the run, and read as tokens."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from subquadratic.data import Binning, IntegerTokenizer, NumberTokenizer, load_corpus, load_tokenizer
from subquadratic.data.binning import Binned

NORMAL = np.random.default_rng(0).normal(size=10_000)


def test_quantile_bins_hold_equally_many() -> None:
    bins = Binning(bins=20).fit(NORMAL)
    counts = np.bincount(bins.encode_values(NORMAL))
    assert bins.size == 20 and counts.max() - counts.min() <= 1
    for index in range(20):  # the center is the mean
        assert bins.centers[index] == pytest.approx(NORMAL[bins.encode_values(NORMAL) == index].mean())


def test_a_bin_is_of_two_numbers_at_least(tmp_path: Path) -> None:
    bins = Binning(bins=100_000).fit(NORMAL[:2700])
    assert bins.size == 1350
    assert (np.bincount(bins.encode_values(NORMAL[:2700]), minlength=1350) == 2).all()
    np.save(tmp_path / "a.npy", NORMAL[:3000])
    for asked, made in ((5000, 1350), (1350, 1350), (64, 64)):
        said = load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=asked)).describe()
        assert f"{made:,} quantile bins" in said
        assert ("fewer bins than the 5,000 asked for" in said) == (asked > made)


def test_a_number_that_comes_often_has_a_bin_of_its_own() -> None:
    mixed = np.where(np.arange(10_000) % 3 == 0, 0.0, NORMAL)
    bins = Binning(bins=16).fit(mixed)
    zero = int(bins.encode_values(np.zeros(1))[0])
    assert set(mixed[bins.encode_values(mixed) == zero]) == {0.0} and bins.centers[zero] == 0.0
    assert bins.size <= 16


def test_mu_law_bins_are_those_of_the_standard() -> None:
    wave = np.sin(np.arange(10_000) / 7)
    bins = Binning(bins=256, binning="mu_law").fit(wave)
    scale, mu = np.abs(wave).max(), 255
    expected = np.floor((np.sign(wave) * np.log1p(mu * np.abs(wave / scale)) / np.log1p(mu) + 1) / 2 * 256).clip(0, 255)
    assert np.mean(bins.encode_values(wave) == expected) > 0.999  # some lie on an edge
    assert np.abs(bins.decode_values(bins.encode_values(wave)) - wave).max() < 0.03


@pytest.mark.parametrize("values", [[0, 0, 0, 1], [0, 1, 1, 1], [0.0, 1.0], [5, 5, 5, 5, 6, 7]])
@pytest.mark.parametrize("bins", [2, 3, 100])
def test_few_different_numbers(values: list[float], bins: int) -> None:
    series = np.array(values, dtype=float)
    found = Binning(bins=bins).fit(series)
    tokens = found.encode_values(series)
    assert 2 <= found.size <= bins and len(set(tokens.tolist())) >= 2
    assert np.isfinite(found.centers).all() and (np.diff(found.centers) > 0).all()


def test_nothing_to_learn_is_refused() -> None:
    for series, difference in ((np.ones(10), False), (np.arange(10.0), True), (np.array([]), False)):
        with pytest.raises(ValueError, match="nothing to learn"):
            Binning(bins=4, difference=difference).fit(series)
    for wrong in ({"bins": 1}, {"bins": 4, "binning": "even"}):
        with pytest.raises(ValueError, match=r"bins must be from 2|binning must be one of quantile, mu_law"):
            Binning(**wrong)  # type: ignore[arg-type]


def test_the_validation_side_has_no_say(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NORMAL)
    changed = NORMAL.copy()
    changed[9_000:] += 100
    np.save(tmp_path / "b.npy", changed)
    first, second = (load_corpus(tmp_path / name, tokenizer=Binning(bins=32)) for name in ("a.npy", "b.npy"))
    assert first.tokenizer.digest == second.tokenizer.digest
    assert first.digest != second.digest


def test_changes_begin_anew_with_each_document(tmp_path: Path) -> None:
    rows = np.cumsum(NORMAL).reshape(100, 100) + np.arange(100)[:, None] * 1000.0
    np.save(tmp_path / "a.npy", rows)
    corpus = load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=64, difference=True))
    bins, series = corpus.tokenizer, corpus.train
    assert isinstance(bins, NumberTokenizer) and isinstance(series, Binned)
    assert bins.highest < 10, "no change from one document to the next"
    assert series[100:102].tolist() == [bins.eos_token, int(bins.bins(np.zeros(1))[0])]
    pieces = np.concatenate([series[start : start + 7] for start in range(0, len(series), 7)])
    assert np.array_equal(pieces, series[:])
    assert np.array_equal(series[:100], bins.encode_values(rows[0]))
    assert series[-1] == series[:][-1] and series[7] == pieces[7]


def test_a_series_is_mapped_anew_by_another_process(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NORMAL)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    series = Binned(mapped[10:], Binning(bins=8).fit(NORMAL))
    written = pickle.dumps(series)
    assert len(written) < 5000
    assert np.array_equal(pickle.loads(written)[:], series[:])


@pytest.mark.parametrize("difference", [False, True])
def test_what_reads_the_data_is_kept_in_the_folder(tmp_path: Path, difference: bool) -> None:
    for tokenizer in (IntegerTokenizer(12), Binning(bins=9, difference=difference).fit(NORMAL)):
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert (again.digest, again.name, again.vocab_size) == (tokenizer.digest, tokenizer.name, tokenizer.vocab_size)
    (tmp_path / "values.json").write_text('{"format": 1, "kind": "numbers"}')
    with pytest.raises(ValueError, match=r"values\.json is damaged"):
        load_tokenizer(tmp_path)


def test_integers_as_text() -> None:
    tokenizer = IntegerTokenizer(128)
    assert tokenizer.encode("60 62,64\n65").tolist() == [60, 62, 64, 65]
    assert tokenizer.decode([60, tokenizer.eos_token, 62]) == "60 62"
    assert tokenizer.decode_bytes([60, 62]) == tokenizer.decode_bytes([60]) + tokenizer.decode_bytes([62]) == b" 60 62"
    assert not tokenizer.byte_lengths().any() and len(tokenizer.byte_lengths()) == tokenizer.vocab_size == 132
    for size in (0, 2**25):
        with pytest.raises(ValueError, match="tokens must be from 1"):
            IntegerTokenizer(size)
