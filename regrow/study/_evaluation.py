"""How many images a model names rightly."""

import torch
from torch import Tensor, nn

from regrow.study._images import Images


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """The autocast region of a device: float16 on a GPU, bfloat16 on a CPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    images: Images,
    *,
    pixels: Tensor | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    amp: bool = False,
) -> float:
    """Share of the images whose class the model names.

    Args:
        model: On ``device``; it is put into evaluation mode.
        images: The set with its labels and normalisation.
        pixels: uint8 (N, H, W, C), used in place of the set's own, such as corrupted ones.
        batch_size: Images at once; the result does not depend on it but for rounding. By default
            100 on a CPU, so that activations stay in its cache, and 1,000 on a GPU.
        device: Where the model is.
        amp: Mixed precision, as in `train_classifier`.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: ``pixels`` are not as many as the labels.
    """
    device = torch.device(device)
    n_batch = batch_size or (100 if device.type == "cpu" else 1000)
    pixels = images.pixels if pixels is None else pixels
    if len(pixels) != len(images):
        raise ValueError(f"there are {len(pixels)} images for {len(images)} labels")
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(images), n_batch):
        batch = images.normalised(pixels[start : start + n_batch].to(device))
        with autocast(device, enabled=amp):
            logits = model(batch)
        labels = images.labels[start : start + n_batch].to(device)
        correct += (logits.argmax(1) == labels).sum()
    return correct.item() / len(images)
