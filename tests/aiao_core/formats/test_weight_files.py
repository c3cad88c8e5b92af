"""Files of weights that describe more than they hold, or hold it more than once."""

import pytest
import torch

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.weight_files import read_weights


def test_a_pickle_that_describes_more_than_it_holds_is_refused(tmp_path):
    """One number, and a tensor of 400 GB that repeats it."""
    torch.save({"weight": torch.zeros(1).expand(10**11)}, tmp_path / "large.pt")
    with pytest.raises(InvalidCheckpoint, match="describes 400000000000 bytes of weights"):
        read_weights(tmp_path / "large.pt")


def test_a_pickle_of_tied_weights_is_read(tmp_path):
    shared = torch.randn(1000)
    torch.save({"one": shared, "other": shared, "third": shared[:500]}, tmp_path / "tied.pt")
    assert sorted(read_weights(tmp_path / "tied.pt")[0]) == ["one", "other", "third"]
