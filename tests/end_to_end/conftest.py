"""What runs of one process share."""

from collections.abc import Iterator

import pytest
import torch


# Of the module, so that a run that others are compared with has one thread too.
@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Numbers of one thread: sums are added in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
