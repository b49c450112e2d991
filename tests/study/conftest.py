import numpy as np
import pytest
import torch
from torch import nn

from regrow.study import Images, using_threads


@pytest.fixture(autouse=True)
def one_thread():
    # Tests of bit-for-bit equality must not depend on how busy the machine is.
    with using_threads(1):
        yield


@pytest.fixture
def blobs():
    """Images (96, 8, 8, 3) of three classes that differ in brightness by channel."""
    random = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = random.integers(0, 120, (96, 8, 8, 3))
    images[np.arange(96), :, :, labels] += 100
    return Images.from_arrays(images.astype(np.uint8), labels)


@pytest.fixture
def make_net():
    """A small network with batch norm and dropout, always with the same initial weights."""

    def make():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.2),
                nn.Linear(24, 3),
            )

    return make
