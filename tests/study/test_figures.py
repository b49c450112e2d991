import io
import math
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from PIL import Image

from regrow.study import Panel, Series, heat_maps, image_grid, line_panels


def is_svg(data):
    root = ET.fromstring(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # No address but name spaces and places within the picture.
    for node in root.iter():
        links = [value for name, value in node.attrib.items() if name.endswith("href")]
        assert all(value.startswith(("#", "data:")) for value in links)
    return root


def panel(**changes):
    series = [
        Series("dense", [0.0, 1.0], [1.0, 1.0], dashed=True, markers=False),
        Series("set & <rigl>", [0.0, 1.0], [1.0, math.nan], [0.5, math.nan], [1.5, math.nan]),
    ]
    return Panel("t", "x", "y", series, **changes)


def test_pictures_are_svg_and_the_same_each_time():
    lines = line_panels([panel(), panel(x_ticks={0.0: "0.3", 1.0: "0.5"}, zero_line=True)])
    is_svg(lines)
    assert lines == line_panels([panel(), panel(x_ticks={0.0: "0.3", 1.0: "0.5"}, zero_line=True)])


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[math.nan, math.nan]], [[-3.0, 12.5]]])
def test_heat_maps_of_any_values(values):
    maps = [(f"m{i}", np.array(values)) for i in range(7)]
    is_svg(heat_maps(maps, rows=["fog"], columns=["1", "5"], label="points"))


def test_a_png_grid_shows_the_pictures():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    data = image_grid([[red, None], [red]], titles=[["a", ""], ["b"]], kind="png", dpi=50)
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    is_red = (picture == [255, 0, 0]).all(-1)
    assert 0.2 < is_red.mean() < 0.5
    is_svg(image_grid([[red, red]], columns=["clean", "fog"], rows=["severity 1"]))


def test_drawing_takes_no_part_in_matplotlibs_global_state():
    def state():
        # Reading the back end would choose one.
        names = [name for name in matplotlib.rcParams if name != "backend"]
        return "matplotlib.pyplot" in sys.modules, {n: matplotlib.rcParams[n] for n in names}

    before = state()
    heat_maps([("a", np.eye(2))], rows=["r", "s"], columns=["1", "2"], label="x")
    assert state() == before
