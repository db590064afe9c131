"""Fixtures that every test may use. Warnings raised from inure are errors: see filterwarnings in pyproject.toml."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read with torch: a thread that waits takes no other's time

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from inure.types import Batch
from tiny import tiny_batch, tiny_net

torch.set_num_threads(1)  # for fixtures of modules too, which are made before those of the test


@pytest.fixture(autouse=True)
def _one_seeded_thread():
    """Every test starts from the same generator, on one thread, and leaves the global state alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def net() -> nn.Module:
    """A seeded net with BatchNorm, in eval mode, for images (B, 3, 6, 6) and 4 classes."""
    return tiny_net().eval()


@pytest.fixture
def batch() -> Batch:
    """Eight random images of ``net``'s shape, some pixels at 0 and at 1, with hard labels."""
    return tiny_batch()


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    """One CPU process, float32."""
    return Fabric(accelerator="cpu", devices=1)
