"""Corruptions of one image, step by step as published, given the same random numbers.

Slow on purpose: no batch, loops over pixels where that is the plainest form. Benchmarks time it.
"""

import math
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage


def truncated(values):
    return np.uint8(np.clip(values, 0, 1) * 255)


def gaussian(values, sigma):
    planes = values.reshape(*values.shape[:2], -1)
    blurred = [
        ndimage.gaussian_filter(planes[..., channel], sigma, mode="nearest", truncate=4.0)
        for channel in range(planes.shape[-1])
    ]
    return np.stack(blurred, axis=-1).reshape(values.shape)


def clipped_zoom(values, factor):
    size = len(values)
    cropped = math.ceil(size / factor)
    top = (size - cropped) // 2
    middle = values[top : top + cropped, top : top + cropped]
    zoomed = ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = (len(zoomed) - size) // 2
    return zoomed[trim : trim + size, trim : trim + size]


def motion(values, radius, sigma, angle, *, finish=lambda mean: np.floor(257 * mean + 0.5) // 257):
    """ImageMagick's motion blur; ``finish=np.floor`` leaves out its 16-bit rounding."""
    width = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    height, length = values.shape[:2]
    mean = np.zeros(values.shape)
    for i, weight in enumerate(weights):
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(length) + right, 0, length - 1)
        mean += weight / sum(weights) * values[rows][:, columns]
    return finish(mean).astype(np.uint8)


def plasma(uniforms, width, decay):
    cloud = np.zeros((width, width))
    numbers = iter(uniforms.tolist())
    step, amplitude = width, 100.0

    def set_point(row, column, first, second, third, fourth):
        noise = -amplitude + 2 * amplitude * next(numbers)
        mean = ((first + second) + (third + fourth)) / 4
        cloud[row % width, column % width] = mean + amplitude * noise

    def at(row, column):
        return cloud[row % width, column % width]

    while step >= 2:
        half = step // 2
        grid = range(0, width, step)
        for y in grid:
            for x in grid:
                corners = at(y, x), at(y + step, x), at(y, x + step), at(y + step, x + step)
                set_point(y + half, x + half, *corners)
        for y in grid:
            for x in grid:
                centres = at(y + half, x + half), at(y - half, x + half)
                set_point(y, x + half, *centres, at(y, x), at(y, x + step))
        for y in grid:
            for x in grid:
                centres = at(y + half, x + half), at(y + half, x - half)
                set_point(y + half, x, *centres, at(y, x), at(y + step, x))
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def rgb_to_hsv(red, green, blue):
    value = max(red, green, blue)
    delta = value - min(red, green, blue)
    if delta == 0:
        return 0.0, 0.0, value
    if blue == value:
        hue = 4 + (red - green) / delta
    elif green == value:
        hue = 2 + (blue - red) / delta
    else:
        hue = (green - blue) / delta
    return hue / 6 % 1, delta / value, value


def hsv_to_rgb(hue, saturation, value):
    sixth = math.floor(hue * 6)
    rest = hue * 6 - sixth
    low = value * (1 - saturation)
    falling = value * (1 - rest * saturation)
    rising = value * (1 - (1 - rest) * saturation)
    return [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ][sixth % 6]


def in_hsv(image, change):
    flat = [hsv_to_rgb(*change(*rgb_to_hsv(*pixel))) for pixel in (image / 255).reshape(-1, 3)]
    return truncated(np.array(flat).reshape(image.shape))


def limited(value):
    return min(max(value, 0.0), 1.0)


def gaussian_noise(image, constants, draws, textures):
    return truncated(image / 255 + draws[0] * constants[0])


def shot_noise(image, constants, draws, textures):
    return truncated(draws[0] / constants[0])


def impulse_noise(image, constants, draws, textures):
    (amount,) = constants
    values = image / 255
    hit = draws[0][0] <= amount
    salt = draws[0][1] <= 0.5
    values[hit & salt] = 1
    values[hit & ~salt] = 0
    return truncated(values)


def speckle_noise(image, constants, draws, textures):
    values = image / 255
    return truncated(values + values * (draws[0] * constants[0]))


def gaussian_blur(image, constants, draws, textures):
    return truncated(gaussian(image / 255, constants[0]))


def defocus_blur(image, constants, draws, textures):
    radius, alias_blur = constants
    reach, width = (8, 3) if radius <= 8 else (radius, 5)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disk = np.array(x**2 + y**2 <= radius**2, dtype=np.float32)
    disk /= disk.sum()
    kernel = cv2.GaussianBlur(disk, ksize=(width, width), sigmaX=alias_blur)
    values = image / 255
    planes = [cv2.filter2D(values[:, :, channel], -1, kernel) for channel in range(3)]
    return truncated(np.stack(planes, axis=-1))


def glass_blur(image, constants, draws, textures):
    sigma, delta, iterations = constants
    size = len(image)
    levels = np.uint8(gaussian(image / 255, sigma) * 255)
    for iteration in range(int(iterations)):
        shifts = iter(draws[0][iteration].reshape(-1, 2).tolist())
        for h in range(size - int(delta), int(delta), -1):
            for w in range(size - int(delta), int(delta), -1):
                dx, dy = next(shifts)
                levels[h, w] = levels[h + dy, w + dx]
    return truncated(gaussian(levels / 255, sigma))


def motion_blur(image, constants, draws, textures):
    return motion(image, *constants, -45 + 90 * float(draws[0]))


def zoom_blur(image, constants, draws, textures):
    values = (image / 255).astype(np.float32)
    total = np.zeros_like(values)
    for factor in constants:
        total += clipped_zoom(values, factor)
    return truncated((values + total) / (len(constants) + 1))


def snow(image, constants, draws, textures):
    mean, deviation, zoom, threshold, radius, sigma, mix = constants
    values = np.array(image, dtype=np.float32) / 255
    layer = clipped_zoom((mean + deviation * draws[0])[..., None], zoom)
    layer[layer < threshold] = 0
    flakes = motion(truncated(layer), radius, sigma, -135 + 90 * float(draws[1])) / 255
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
    values = mix * values + (1 - mix) * np.maximum(values, grey * 1.5 + 0.5)
    return truncated(values + flakes + np.rot90(flakes, k=2))


def frost(image, constants, draws, textures):
    number, row, column = draws[0]
    size = len(image)
    crop = textures[number][row : row + size, column : column + size]
    return np.uint8(np.clip(constants[0] * image + constants[1] * crop, 0, 255))


def fog(image, constants, draws, textures):
    amount, decay = constants
    size = len(image)
    width = {32: 32, 64: 64, 224: 256}[size]
    values = image / 255
    brightest = values.max()
    values += amount * plasma(draws[0], width, decay)[:size, :size, None]
    return truncated(values * brightest / (brightest + amount))


def brightness(image, constants, draws, textures):
    return in_hsv(image, lambda h, s, v: (h, s, limited(v + constants[0])))


def saturate(image, constants, draws, textures):
    return in_hsv(image, lambda h, s, v: (h, limited(s * constants[0] + constants[1]), v))


def contrast(image, constants, draws, textures):
    values = image / 255
    means = np.mean(values, axis=(0, 1), keepdims=True)
    return truncated((values - means) * constants[0] + means)


def elastic_transform(image, constants, draws, textures):
    strength, sigma, reach = constants
    size = len(image)
    values = np.array(image, dtype=np.float32) / 255
    low, high = size // 2 - size // 3, size // 2 + size // 3
    corners = np.float32([[high, high], [high, low], [low, low]])
    moved = corners + (-reach + 2 * reach * draws[0]).astype(np.float32)
    matrix = cv2.getAffineTransform(corners, moved)
    values = cv2.warpAffine(values, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    fields = [
        ndimage.gaussian_filter(-1 + 2 * field, sigma, mode="reflect", truncate=3)
        for field in draws[1]
    ]
    dx, dy = ((field * strength).astype(np.float32)[..., None] for field in fields)
    y, x, channel = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    where = [y + dy, x + dx, channel]
    return truncated(ndimage.map_coordinates(values, where, order=1, mode="reflect"))


def pixelate(image, constants, draws, textures):
    size = len(image)
    side = int(size * constants[0])
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BOX))


def jpeg_compression(image, constants, draws, textures):
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=constants[0])
    return np.asarray(Image.open(stream))


def spatter(image, constants, draws, textures):
    mean, deviation, sigma, threshold, last, mud = constants
    values = np.array(image, dtype=np.float32) / 255
    liquid = gaussian(mean + deviation * draws[0], sigma)
    liquid[liquid < threshold] = 0
    if mud:
        cover = gaussian(np.where(liquid > threshold, 1, 0).astype(np.float32), last)
        cover[cover < 0.8] = 0
        colour = np.float32([63, 42, 20]) / np.float32(255) * cover[..., None]
        return truncated(values * (1 - cover[..., None]) + colour)
    liquid = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    _, distance = cv2.threshold(distance, 20, 20, cv2.THRESH_TRUNC)
    distance = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    distance = cv2.blur(cv2.filter2D(distance, cv2.CV_8U, kernel), (3, 3)).astype(np.float32)
    water = liquid * distance
    if water.max() == 0:
        return image
    water = water / water.max() * np.float32(last)
    return truncated(values + water[..., None] * (np.array([175, 238, 238]) / 255).astype("f4"))


REFERENCES: dict[str, Callable] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
        speckle_noise,
        gaussian_blur,
        spatter,
        saturate,
    )
}


def corrupted_one_by_one(name, batch):
    """The reference applied to each image of a batch with its draws."""
    results = []
    for number, image in enumerate(batch.images):
        draws = tuple(array[number] for array in batch.draws)
        results.append(REFERENCES[name](image, batch.constants, draws, batch.textures))
    return np.stack(results)
