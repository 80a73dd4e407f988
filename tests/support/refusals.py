"""What a user is told of an input that is refused."""

import pytest

from latent_audit.errors import InputError


def refused(act):
    """The one line of the InputError that act() raises."""
    with pytest.raises(InputError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)
