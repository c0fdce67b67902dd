"""How many threads may be asked for."""

import pytest

from subquadratic.core.threads import check_threads, usable_cores, use_threads


def test_more_threads_than_the_system_could_start_are_refused() -> None:
    most = max(100, 8 * usable_cores())
    check_threads(None)
    check_threads(most)
    for asked in (most + 1, 99999):
        with pytest.raises(ValueError, match=f"threads must be at most {most}"):
            use_threads(asked)
