"""Cost of the nineteen corruptions at 32, 64 or 224 pixels, beside an image-by-image reference.

Each pair of (type, severity) is checked against the reference with the same random numbers, then
timed in turn with it in one process on one core. Times are processor seconds, so that what else
runs on the machine counts little; the smallest of the rounds is kept.

    python benchmarks/corruptions.py --frost FOLDER --csv corruptions.csv
    python benchmarks/corruptions.py --frost FOLDER --size 224
"""

import argparse
import csv
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from regrow.robustness.corruptions import ALL, available, corrupt_seeded
from regrow.robustness.corruptions._constants import SIZES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from robustness.corruptions.corruption_cases import drawn_batch, sample_images
from robustness.corruptions.corruption_reference import corrupted_one_by_one

# Images of a published suite, each at five severities, and what the published programs cost on one
# core: seconds an image, mean over severities, sum over all nineteen types.
N_SUITE = {32: 10_000, 64: 10_000, 224: 50_000}
PUBLISHED_S_PER_IMAGE = {32: 0.039, 64: 0.184, 224: 2.72}
# By default about as many values at each size; the reference takes seconds an image at 224 pixels.
N_IMAGES = {32: 500, 64: 125, 224: 10}
N_REFERENCE = {32: 8, 64: 4, 224: 1}


@dataclass(frozen=True)
class Timing:
    name: str
    severity: int
    package_s: float  # an image
    reference_s: float


def one_core() -> None:
    """Keep the process on one core and its libraries at one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load_images(path: Path | None, size: int, n_images: int) -> np.ndarray:
    """Images of an .npy file of a CIFAR kind, or made-up ones."""
    if path is None:
        return sample_images(size, n_images=n_images)
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.shape[1:] != (size, size, 3):
        raise SystemExit(f"{path} has images of shape {images.shape[1:]}, --size is {size}")
    return np.ascontiguousarray(images[:n_images])


def processor_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def check(name: str, severity: int, images: np.ndarray, frost_dir: Path | None) -> None:
    """Compare with the reference, or raise."""
    seeds = np.arange(len(images))
    ours = corrupt_seeded(images, name, severity, seeds=seeds, frost_dir=frost_dir)
    batch = drawn_batch(name, severity, images, seeds=seeds, frost_dir=frost_dir)
    difference = np.abs(ours.astype(int) - corrupted_one_by_one(name, batch).astype(int))
    allowed = 1 if name == "elastic_transform" else 0
    if difference.max() > allowed or np.mean(difference > 0) > 1e-3:
        raise SystemExit(f"{name} {severity} differs from the reference by {difference.max()}")


def measure(name: str, severity: int, images: np.ndarray, args: argparse.Namespace) -> Timing:
    """Time package and reference in turn."""
    few = images[: args.reference_images]
    seeds = np.arange(len(images))

    def package() -> None:
        corrupt_seeded(images, name, severity, seeds=seeds, frost_dir=args.frost)

    def reference() -> None:
        batch = drawn_batch(name, severity, few, frost_dir=args.frost)
        corrupted_one_by_one(name, batch)

    pairs = [(processor_seconds(package), processor_seconds(reference)) for _ in range(args.rounds)]
    ours, theirs = (min(times) for times in zip(*pairs, strict=True))
    return Timing(name, severity, ours / len(images), theirs / len(few))


def measured(names: list[str], args: argparse.Namespace) -> Iterator[Timing]:
    images = load_images(args.images, args.size, args.n_images)
    for name in names:
        for severity in range(1, 6):
            check(name, severity, images[: args.reference_images], args.frost)
            yield measure(name, severity, images, args)


def print_table(timings: list[Timing]) -> None:
    print(f"\n{'type':18s}" + "".join(f"{f'sev {s}':>9s}" for s in range(1, 6)), end="")
    print(f"{'mean':>9s}{'reference':>11s}{'ratio':>8s}   (microseconds an image)")
    for name in dict.fromkeys(timing.name for timing in timings):
        own = [timing for timing in timings if timing.name == name]
        ours = np.mean([timing.package_s for timing in own])
        theirs = np.mean([timing.reference_s for timing in own])
        columns = "".join(f"{1e6 * timing.package_s:9.1f}" for timing in own)
        print(f"{name:18s}{columns}{1e6 * ours:9.1f}{1e6 * theirs:11.1f}{theirs / ours:8.1f}")


def print_totals(timings: list[Timing], n_types: int, size: int) -> None:
    n_images = N_SUITE[size]
    ours = sum(timing.package_s for timing in timings)
    theirs = sum(timing.reference_s for timing in timings)
    print(f"\n{n_images} images x {n_types} types x 5 severities, one core:")
    print(f"  package              {n_images * ours:8.1f} s")
    print(
        f"  reference            {n_images * theirs:8.1f} s, {theirs / ours:.1f} times the package"
    )
    published = PUBLISHED_S_PER_IMAGE[size]
    if n_types == len(ALL):
        ratio = 5 * published / ours
        print(f"  published programs   {5 * n_images * published:8.1f} s, ", end="")
        print(f"{ratio:.1f} times the package")
        milliseconds = 1e3 * published
        print(f"                       ({milliseconds:.0f} ms an image and severity, ", end="")
        print("measured on another machine)")
    print(f"One image through {n_types} types, mean over severities: {ours / 5:.4f} s")


def write_csv(path: Path, timings: list[Timing]) -> None:
    header = ("processor", "threads", "type", "severity", "package_s", "reference_s")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for timing in timings:
            seconds = (f"{timing.package_s:.3e}", f"{timing.reference_s:.3e}")
            writer.writerow((processor(), 1, timing.name, timing.severity, *seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, choices=SIZES, default=32, help="side in pixels")
    parser.add_argument("--n-images", type=int, help=f"by size, {N_IMAGES}")
    parser.add_argument("--reference-images", type=int, help=f"by size, {N_REFERENCE}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=Path, help=".npy, uint8 (N, size, size, 3)")
    parser.add_argument("--frost", type=Path, help="folder with the frost textures")
    parser.add_argument("--types", nargs="*", choices=ALL)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    args.n_images = args.n_images or N_IMAGES[args.size]
    args.reference_images = args.reference_images or N_REFERENCE[args.size]
    one_core()
    print(f"{processor()}, one core, one thread; python {platform.python_version()}, ", end="")
    print(f"numpy {np.__version__}, opencv {cv2.__version__}; {args.n_images} images ", end="")
    print(f"of {args.size} px, reference on {args.reference_images}, best of {args.rounds}")
    possible = available(args.frost)
    names = [name for name in args.types or ALL if name in possible]
    if "frost" not in possible and "frost" in (args.types or ALL):
        print("frost is left out: --frost names no folder with its textures")
    timings = list(measured(names, args))
    print_table(timings)
    print_totals(timings, len(names), args.size)
    if args.csv is not None:
        write_csv(args.csv, timings)


if __name__ == "__main__":
    main()
