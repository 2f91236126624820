"""A `with` block closes what it was given, and hides no error."""

import pytest

from condinst_deploy.support.closing import Closing


class Held(Closing):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_block_gets_the_thing_itself_and_closes_it_at_the_end() -> None:
    held = Held()
    with held as inside:
        assert inside is held
        assert held.closed == 0
    assert held.closed == 1


def test_an_error_goes_through_after_closing() -> None:
    held = Held()
    with pytest.raises(KeyError), held:
        raise KeyError
    assert held.closed == 1
