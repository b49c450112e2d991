"""Fully connected network on the pixels of small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from regrow._checks import check_count
from regrow.models._layers import check_arguments

_WIDTH = (4000, 1000, 4000)


class MLP(nn.Module):
    """Pixels in a row, then fully connected layers.

    Args:
        width: Sizes of the hidden layers.
        n_classes: Number of outputs.
        side: Height and width of the images.
    """

    def __init__(self, width: Sequence[int], *, n_classes: int, side: int) -> None:
        super().__init__()
        self.side = side
        layers: list[nn.Module] = []
        n_in = 3 * side**2
        for n_out in width:
            # No bias: the batch norm behind it has one.
            layer = nn.Linear(n_in, n_out, bias=False)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layers += [layer, nn.BatchNorm1d(n_out), nn.ReLU()]
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, n_classes) of images (B, 3, side, side)."""
        if images.shape[1:] != (3, self.side, self.side):
            raise ValueError(
                f"this mlp takes images of shape (3, {self.side}, {self.side}), got "
                f"{tuple(images.shape[1:])}; mlp(n_classes, side=...) makes one for another size"
            )
        logits: Tensor = self.classifier(self.features(images.flatten(1)))
        return logits


def mlp(n_classes: int, *, width: Sequence[int] = _WIDTH, side: int = 32) -> nn.Module:
    """Fully connected network with batch norm and ReLU, 20.4 million parameters by default.

    Args:
        n_classes: Number of classes, at least 2.
        width: Sizes of the hidden layers, one or more. Default: that of the network for CIFAR-10 in
            the paper of SET, whose activation was SReLU and which had no batch norm.
        side: Height and width of the images in pixels. Default: CIFAR's.

    Returns:
        The network, with initial values from torch's global generator.

    Raises:
        TypeError: Sizes are no integers.
        ValueError: A size below 1, no hidden layer, or fewer than two classes.

    Source: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science (Nature Communications 2018).
    """
    n_layers = max(1, len(width)) if isinstance(width, Sequence) else 1
    n_classes, widths = check_arguments(n_classes, width, n_stages=n_layers)
    return MLP(widths, n_classes=n_classes, side=check_count(side, "side"))
