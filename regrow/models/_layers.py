"""What the models here are made of."""

from collections.abc import Sequence

from torch import Tensor, nn

from regrow._checks import check_count


def convolution(n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, without bias, with He's initial values.

    Args:
        n_in: Channels coming in.
        n_out: Channels going out.
        kernel: Side of the kernel, odd.
        stride: Step; 2 halves the size.

    Returns:
        The layer. No bias: the batch norm behind it has one. Initial values are normal with
        variance 2/(n_out k^2) (He et al. 2015), drawn from torch's global generator.
    """
    layer = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def conv_norm_relu(n_in: int, n_out: int, *, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, batch norm and ReLU, to be put into a ``Sequential``."""
    return [
        convolution(n_in, n_out, stride=stride),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    ]


class Classifier(nn.Module):
    """Features, average over positions, one linear layer.

    Args:
        features: Maps images (B, 3, H, W) to features (B, n_features, h, w).
        n_features: Channels of the features.
        n_classes: Number of outputs.
    """

    def __init__(self, features: nn.Sequential, *, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(n_features, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, n_classes) of images (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def check_arguments(
    n_classes: int, width: Sequence[int], *, n_stages: int
) -> tuple[int, tuple[int, ...]]:
    """Return both arguments of a constructor once they are known to be good.

    Raises:
        TypeError: Not integers, or ``width`` is no sequence.
        ValueError: Fewer than two classes, a width below 1, or not one width for each stage.
    """
    if isinstance(width, str) or not isinstance(width, Sequence):
        raise TypeError(f"width must be a sequence of {n_stages} integers, got {width!r}")
    if len(width) != n_stages:
        raise ValueError(
            f"width must hold {n_stages} numbers of channels, one a stage, got {width!r}"
        )
    widths = tuple(check_count(channels, "width") for channels in width)
    return check_count(n_classes, "n_classes", least=2), widths
