"""Image sets in standard layouts, as uint8 arrays, and published corrupted copies of them."""

from regrow.data._arrays import open_array, read_arrays
from regrow.data._corrupted import CorruptedImages, available_kinds, read_corrupted
from regrow.data._image_data import ImageData, checksum
from regrow.data._load import NAMES, load

__all__ = [
    "NAMES",
    "CorruptedImages",
    "ImageData",
    "available_kinds",
    "checksum",
    "load",
    "open_array",
    "read_arrays",
    "read_corrupted",
]
