"""Sums of all values that the published programs give for one 32-pixel image."""

import os

import cv2
import numpy as np
import pytest
import torch
from robustness.corruptions.corruption_cases import ramp_image

from regrow.robustness.corruptions import DETERMINISTIC, corrupt
from regrow.robustness.corruptions._constants import CONSTANTS
from regrow.robustness.corruptions._frost import load_textures
from regrow.robustness.corruptions._registry import CORRUPTIONS
from regrow.robustness.corruptions._types import Batch

WITHOUT_DRAWS = {
    "defocus_blur": (392577, 392674, 392764, 392482, 393036),
    "zoom_blur": (391902, 392916, 393394, 393889, 394029),
    "gaussian_blur": (391881, 392057, 391870, 391836, 391662),
    "contrast": (391808, 391936, 391578, 391624, 391707),
    "brightness": (415657, 436584, 454247, 468712, 489771),
    "saturate": (532245, 572280, 339552, 319806, 310439),
    "pixelate": (393536, 393856, 394016, 394496, 395136),
    "jpeg_compression": (392783, 393779, 393298, 392726, 392774),
}
# With NumPy's legacy generator seeded with 0 before each call. Motion blur and snow are those of
# ImageMagick, elastic those of OpenCV 4.5 and 5.0, whose affine warps differ in the last bits.
WITH_DRAWS = {
    "gaussian_noise": [(390796, 390466, 390095, 389977, 389802)],
    "shot_noise": [(391679, 390641, 388777, 389067, 388382)],
    "speckle_noise": [(390176, 388644, 387771, 385768, 383372)],
    "glass_blur": [(394615, 392413, 391731, 392227, 391900)],
    "fog": [(387352, 383062, 385620, 395316, 399313)],
    "spatter": [(395475, 398796, 413648, 388470, 380482)],
    "frost": [(450567, 477906, 472541, 454386, 430973)],
    "motion_blur": [(391751, 391977, 392031, 392031, 393067)],
    "snow": [(423001, 468724, 473640, 499013, 557141)],
    "elastic_transform": [
        (392375, 392227, 391876, 391706, 391746),
        (392350, 392226, 391880, 391741, 391759),
    ],
}


def legacy_draws(name, image, constants, textures):
    """Random numbers in the order in which the published program asks for them."""
    legacy = np.random.RandomState(0)
    size = len(image)
    if name in ("gaussian_noise", "speckle_noise"):
        return (legacy.normal(size=image.shape),)
    if name == "shot_noise":
        return (legacy.poisson(image / 255 * constants[0]),)
    if name == "glass_blur":
        delta, iterations = int(constants[1]), int(constants[2])
        inner = size - 2 * delta
        pairs = [legacy.randint(-delta, delta, size=2) for _ in range(iterations * inner**2)]
        return (np.array(pairs, dtype=np.int8).reshape(iterations, inner, inner, 2),)
    if name == "fog":
        return (legacy.uniform(size=size**2 - 1),)
    if name == "spatter":
        return (legacy.normal(size=(size, size)),)
    if name == "snow":
        return legacy.normal(size=(size, size)), np.array(legacy.uniform())
    if name == "motion_blur":
        return (np.array(legacy.uniform()),)
    if name == "elastic_transform":
        return legacy.uniform(size=(3, 2)), legacy.uniform(size=(2, size, size))
    number = legacy.randint(5)
    height, width, _ = textures[number].shape
    return (np.array([number, legacy.randint(0, height - size), legacy.randint(0, width - size)]),)


def test_image_is_the_published_one():
    assert ramp_image().astype(int).sum() == 393216
    assert set(WITHOUT_DRAWS) == set(DETERMINISTIC)


@pytest.mark.parametrize("name", WITHOUT_DRAWS)
def test_sums_without_randomness(name):
    sums = []
    for severity in range(1, 6):
        generator = torch.Generator().manual_seed(severity)
        result = corrupt(ramp_image()[None], name, severity, generator=generator)
        sums.append(int(result.astype(int).sum()))
    assert tuple(sums) == WITHOUT_DRAWS[name]


@pytest.mark.parametrize("name", WITH_DRAWS)
def test_sums_with_the_legacy_generator(name):
    frost_dir = os.environ.get("REGROW_FROST")
    if name == "frost" and frost_dir is None:
        pytest.skip("REGROW_FROST does not name a folder with the published frost textures")
    textures = load_textures(frost_dir, 32) if name == "frost" else ()
    image = ramp_image()
    sums = []
    for constants in CONSTANTS[name][32]:
        draws = legacy_draws(name, image, constants, textures)
        batch = Batch(image[None], constants, textures, tuple(array[None] for array in draws))
        sums.append(int(CORRUPTIONS[name].apply(batch).astype(int).sum()))
    allowed = WITH_DRAWS[name]
    if name == "elastic_transform" and int(cv2.__version__.split(".")[0]) >= 5:
        allowed = allowed[1:]
    assert tuple(sums) in allowed
