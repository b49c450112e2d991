"""What users pass to a study, in the forms that the study works with."""

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
from torch import nn

from regrow.data import ImageData
from regrow.models import constructor
from regrow.study import Images

Arrays = tuple[np.ndarray, np.ndarray]
T = TypeVar("T")


def as_image_data(
    train: ImageData | Arrays,
    test: Arrays | None,
    *,
    name: str,
    classes: Sequence[str] | None,
    flip: bool,
) -> ImageData:
    """Check the images of a study.

    Args:
        train: A data set, or training images uint8 (N, H, W, 3) with labels (N,).
        test: Test images with labels; None where ``train`` is a data set.
        name: What a set of arrays is called in tables.
        classes: Names of its classes; by default the numbers from 0 to the largest label.
        flip: Whether a mirrored image of it keeps its class.

    Returns:
        The data set. Arrays are normalised by the mean and standard deviation of the training
        images.

    Raises:
        TypeError: Something is of another type.
        ValueError: Arrays do not fit together, or a test set was given twice or not at all.
    """
    if isinstance(train, ImageData):
        if test is not None or classes is not None or flip:
            raise ValueError(
                "train is a whole data set, which has its own test images, classes and flip: "
                "leave test, classes and flip out"
            )
        return train
    if test is None:
        raise ValueError("test is missing: give (images, labels), or a data set as train")
    images = Images.from_arrays(*_pair(train, "train"), name="train")
    tests = Images.from_arrays(*_pair(test, "test"), name="test")
    n_classes = 1 + max(int(images.labels.max()), int(tests.labels.max()))
    return ImageData(
        name=name,
        train_images=images.pixels.numpy(),
        train_labels=images.labels.numpy(),
        test_images=tests.pixels.numpy(),
        test_labels=tests.labels.numpy(),
        classes=tuple(classes) if classes is not None else tuple(map(str, range(n_classes))),
        mean=images.mean,  # type: ignore[arg-type]  # ImageData checks the number of channels
        std=images.std,  # type: ignore[arg-type]
        flip=flip,
    )


def _pair(value: object, argument: str) -> Arrays:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{argument} must be (images, labels), got {type(value).__name__}")
    images, labels = value
    return images, labels


def as_model(build_model: str | Callable[..., nn.Module]) -> tuple[str, Callable[..., nn.Module]]:
    """A model's name and what makes it.

    Args:
        build_model: A name that `regrow.models.constructor` knows, or a function of the number of
            classes.

    Returns:
        Name and function. A function's name is ``module:name``, which a folder of results is
        recognised by when it is resumed.

    Raises:
        TypeError: Neither, or a function that cannot be called with one argument.
        ValueError: An unknown name.
    """
    if isinstance(build_model, str):
        return build_model, constructor(build_model)
    if not callable(build_model):
        raise TypeError(f"build_model must be a name or a function, got {build_model!r}")
    try:
        inspect.signature(build_model).bind(10)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"build_model is called with the number of classes alone, which fails: {error}"
        ) from error
    module = getattr(build_model, "__module__", type(build_model).__module__)
    name = getattr(build_model, "__qualname__", type(build_model).__qualname__)
    return f"{module}:{name}", build_model


def as_tuple(value: T | Sequence[T], kind: type | tuple[type, ...]) -> tuple[T, ...]:
    """One value or several, as a tuple.

    Args:
        value: A value, or a list, tuple or range of values.
        kind: Types of a single value.
    """
    if isinstance(value, list | tuple | range):
        return tuple(value)
    if isinstance(value, kind):
        return (cast("T", value),)
    raise TypeError(f"expected one value or a list of them, got {value!r}")
