"""Images, textures and draws that the corruption tests share."""

import cv2
import numpy as np

from regrow.robustness.corruptions._constants import CONSTANTS
from regrow.robustness.corruptions._frost import load_textures
from regrow.robustness.corruptions._registry import CORRUPTIONS
from regrow.robustness.corruptions._streams import streams
from regrow.robustness.corruptions._types import Batch

# Height and width of the published textures, so that scaled sizes and crops are the real ones.
TEXTURE_SHAPES = {
    "frost1.png": (600, 900),
    "frost2.png": (315, 560),
    "frost3.png": (315, 560),
    "frost4.jpg": (350, 527),
    "frost5.jpg": (495, 660),
}


def ramp_image():
    """The image of the published sums."""
    h, w, c = np.ogrid[:32, :32, :3]
    return ((7 * h + 13 * w + 29 * c * (h + 1)) % 256).astype(np.uint8)


def sample_images(size, *, n_images=7, seed=0):
    """Flat, two-tone and smooth images first: truncation is hardest where nothing varies."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n_images, size, size, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(rng.normal(size=(size, size, 3)), (0, 0), size / 16)
    smooth = 128 + smooth * (90 / smooth.std())
    halves = np.full((size, size, 3), (7, 130, 201))
    halves[size // 2 :] = (254, 3, 99)
    kinds = [smooth, halves, np.full((size, size, 3), 100), np.full((size, size, 3), 255)]
    for place, kind in zip(images, kinds, strict=False):
        place[...] = np.clip(kind, 0, 255)
    if n_images > 5:  # the one at 4 stays black
        images[5:] = rng.integers(0, 256, size=images[5:].shape, dtype=np.uint8)
    return images


def write_textures(folder, *, seed=0):
    """Cloudy pictures under the names and in the sizes of the real ones."""
    rng = np.random.default_rng(seed)
    for name, (height, width) in TEXTURE_SHAPES.items():
        coarse = rng.integers(0, 256, size=(height // 16, width // 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (width, height)))
    return folder


def drawn_batch(name, severity, images, *, seeds=None, frost_dir=None):
    """A batch with draws from the package's own streams."""
    size = images.shape[1]
    textures = load_textures(frost_dir, size) if name == "frost" else ()
    batch = Batch(images, CONSTANTS[name][size][severity - 1], textures)
    draw = CORRUPTIONS[name].draw
    if draw is None:
        return batch
    if seeds is None:
        seeds = np.arange(len(images))
    return with_draws(batch, draw(streams(seeds, name, severity), batch))


def with_draws(batch, draws):
    return Batch(batch.images, batch.constants, batch.textures, draws)
