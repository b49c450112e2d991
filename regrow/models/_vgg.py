"""VGG-16 in its form for CIFAR."""

from collections.abc import Sequence

from torch import nn

from regrow.models._layers import Classifier, check_arguments, conv_norm_relu

_DEPTHS = (2, 2, 3, 3, 3)


def vgg16_bn(n_classes: int, *, width: Sequence[int] = (64, 128, 256, 512, 512)) -> nn.Module:
    """VGG-16 with batch norm and a single linear classifier, as used on CIFAR.

    Thirteen 3x3 convolutions in five stages, each ending with a 2x2 max-pool (Simonyan and
    Zisserman 2015, configuration D). The three large linear layers of the ImageNet form are
    replaced by one; convolutions have no bias, since batch norm follows.

    Args:
        n_classes: Number of classes, at least 2.
        width: Channels of the five stages. Default: the paper's.

    Returns:
        The model: images (B, 3, H, W), any size of 32 or more, to logits (B, n_classes).

    Raises:
        TypeError: Not integers.
        ValueError: Fewer than two classes, a width below 1, or not five widths.

    Example:
        >>> import torch
        >>> vgg16_bn(10, width=(4, 4, 8, 8, 8))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    n_classes, widths = check_arguments(n_classes, width, n_stages=5)
    layers: list[nn.Module] = []
    n_in = 3
    for depth, n_out in zip(_DEPTHS, widths, strict=True):
        for _ in range(depth):
            layers += conv_norm_relu(n_in, n_out)
            n_in = n_out
        layers.append(nn.MaxPool2d(2))
    return Classifier(nn.Sequential(*layers), n_features=n_in, n_classes=n_classes)
