"""`subq serve`, up to the point where it would load a model: where it may listen."""

import socket

import pytest

from subquadratic.cli.serve import find_address, listen, run
from subquadratic.cli.text_io import OutputError

pytest.importorskip("jsonargparse")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("localhost", None), ("127.8.8.8", socket.AF_INET)])
def test_this_machine_is_listened_to_without_further_words(host: str, family: socket.AddressFamily | None) -> None:
    found, address = find_address(host, 0, public=False)
    assert family in (None, found)
    with listen(found, address) as listening:
        assert listening.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_other_machines_are_asked_for(host: str) -> None:
    with pytest.raises(ValueError, match="give --public"):
        find_address(host, 8000, public=False)
    assert find_address(host, 8000, public=True)[1][1] == 8000


def test_a_host_that_there_is_not_is_told() -> None:
    with pytest.raises(ValueError, match="host: cannot find 'a b'"):
        find_address("a b", 8000, public=True)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use; name another --port"):
            listen(socket.AF_INET, ("127.0.0.1", port))


@pytest.mark.parametrize(("given", "said"), [(["--port", "-1"], "port"), (["--queue", "0"], "queue"), (["--name", " "], "name")])
def test_values_out_of_range_are_told(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"{said} must be"):
        run(["missing", *given])
