"""ResNet-18 and ResNet-34 in their form for CIFAR."""

from collections.abc import Sequence

from torch import Tensor, nn

from regrow.models._layers import Classifier, check_arguments, conv_norm_relu, convolution


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left).

    Args:
        n_in: Channels coming in.
        n_out: Channels going out.
        stride: Step of the first convolution. Where it is not 1, or the channels change, the
            shortcut is a 1x1 convolution with batch norm (option B).
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm_relu(n_in, n_out, stride=stride),
            convolution(n_out, n_out),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut.append(convolution(n_in, n_out, kernel=1, stride=stride))
            self.shortcut.append(nn.BatchNorm2d(n_out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, n_in, H, W) to (B, n_out, H/stride, W/stride)."""
        y: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return y


def resnet18(n_classes: int, *, width: Sequence[int] = (64, 128, 256, 512)) -> nn.Module:
    """ResNet-18 as used on CIFAR: a 3x3 stem of stride 1, no max-pool, basic blocks.

    Stages, blocks and widths are those of He et al. 2016, table 1 (18 layers); the stem is the
    common change for images of 32x32.

    Args:
        n_classes: Number of classes, at least 2.
        width: Channels of the four stages; the stem has those of the first. Default: the paper's.

    Returns:
        The model: images (B, 3, H, W) to logits (B, n_classes).

    Raises:
        TypeError: Not integers.
        ValueError: Fewer than two classes, a width below 1, or not four widths.

    Example:
        >>> import torch
        >>> resnet18(10, width=(4, 4, 8, 8))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _resnet(n_classes, width, depths=(2, 2, 2, 2))


def resnet34(n_classes: int, *, width: Sequence[int] = (64, 128, 256, 512)) -> nn.Module:
    """ResNet-34 as used on CIFAR: a 3x3 stem of stride 1, no max-pool, basic blocks.

    Stages, blocks and widths are those of He et al. 2016, table 1 (34 layers); the stem is the
    common change for images of 32x32.

    Args:
        n_classes: Number of classes, at least 2.
        width: Channels of the four stages; the stem has those of the first. Default: the paper's.

    Returns:
        The model: images (B, 3, H, W) to logits (B, n_classes).

    Raises:
        TypeError: Not integers.
        ValueError: Fewer than two classes, a width below 1, or not four widths.

    Example:
        >>> import torch
        >>> resnet34(10, width=(4, 4, 8, 8))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _resnet(n_classes, width, depths=(3, 4, 6, 3))


def _resnet(n_classes: int, width: Sequence[int], *, depths: tuple[int, ...]) -> nn.Module:
    n_classes, widths = check_arguments(n_classes, width, n_stages=4)
    n_in = widths[0]
    layers = conv_norm_relu(3, n_in)
    for stage, (depth, n_out) in enumerate(zip(depths, widths, strict=True)):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(n_in, n_out, stride=stride))
            n_in = n_out
    return Classifier(nn.Sequential(*layers), n_features=n_in, n_classes=n_classes)
