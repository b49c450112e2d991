import numpy as np
import pytest
from PIL import Image

from regrow.robustness import corruption_sheet


@pytest.mark.parametrize(("size", "used"), [((40, 33), 32), ((20, 20), 32), ((100, 64), 64)])
def test_a_sheet_shows_every_corruption(tmp_path, size, used, monkeypatch):
    seen = []
    from regrow.robustness import _sheet as module

    grid = module.image_grid

    def spy(images, **options):
        seen.append((images, options["titles"]))
        return grid(images, **options)

    monkeypatch.setattr(module, "image_grid", spy)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    path = corruption_sheet(tmp_path / "in.png", out=tmp_path / "sub" / "out.png", severity=5)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    ((images, titles),) = seen
    flat = [image for row in images for image in row]
    assert len(flat) == 19
    assert all(image.shape == (used, used, 3) for image in flat)
    assert [title for row in titles for title in row][:2] == [f"clean, {used} px", "gaussian noise"]
    if size == (40, 33):
        # The middle square, from column 3 on.
        middle = Image.fromarray(pixels[:, 3:36]).resize((32, 32), Image.Resampling.BICUBIC)
        assert (flat[0] == np.asarray(middle)).all()


def test_bad_input_is_refused(tmp_path):
    out = tmp_path / "o.png"
    with pytest.raises(FileNotFoundError, match="no picture"):
        corruption_sheet(tmp_path / "none.png", out=out)
    (tmp_path / "text.png").write_text("x")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        corruption_sheet(tmp_path / "text.png", out=out)
    with pytest.raises(ValueError, match="severity"):
        corruption_sheet(tmp_path / "text.png", out=out, severity=6)
    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    with pytest.raises(FileNotFoundError, match="frost"):
        corruption_sheet(tmp_path / "in.png", out=out, frost=tmp_path)
    assert not out.exists()
