"""Models of torchvision and of others in a study, as far as it is checked before it begins."""

import numpy as np
import pytest
import torch
from torch import nn

from regrow.models import constructor
from regrow.robustness._given import as_image_data
from regrow.robustness._job import prepare
from regrow.robustness._recipes import default_recipe
from regrow.robustness._settings import Settings
from regrow.study import Cell

EQUAL = "dense-equal-parameters"


def job_of(build, *, side=32):
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    labels = np.arange(8) % 4
    pair = (images, labels)
    data = as_image_data(pair, pair, name="noise", classes=None, flip=False)
    settings = Settings(
        methods=("dense", EQUAL), sparsities=(0.5,), seeds=1,
        recipe=default_recipe("npz", flip=False, epochs=1, batch_size=4),
        rewirings=20, interval=None, weight_step="before", allocation="erdos_renyi_kernel",
        corruptions=("fog",), severities=(1,), device="cpu", amp=False,
    )  # fmt: skip
    return prepare(build, data, settings=settings, model_name="one")


def test_mobilenet_has_an_arm_of_equal_parameters():
    pytest.importorskip("torchvision", reason="names a model of torchvision")
    job = job_of(constructor("torchvision.models:mobilenet_v2"))
    assert not job.refused
    model = job.model(Cell(method=EQUAL, sparsity=0.5, seed=0))
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 0 < job.widths[0.5] < 1
    # Half of the weights, and all norms: a little more than half of the parameters.
    assert 0.5 < n_parameters / job.n_parameters < 0.52


def test_efficientnet_has_none_and_the_reason_is_told():
    pytest.importorskip("torchvision", reason="names a model of torchvision")
    job = job_of(constructor("torchvision.models:efficientnet_b0"))
    assert not job.widths
    assert "efficientnet_b0 takes no argument width, nor width_mult" in job.refused[0.5]
    assert [cell.method for cell in job.cells()] == ["dense"]


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_models_that_refuse_the_images_are_named_in_one_error(error):
    class Particular(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise error(f"64 doesn't match 224, {images.shape[1]}")

    with pytest.raises(ValueError, match=r"cannot take images of shape \(3, 64, 64\): 64 doesn't"):
        job_of(lambda n_classes: Particular(2, n_classes), side=64)
