import numpy as np
import pytest
from PIL import Image

from regrow.data import ImageData, checksum
from regrow.robustness import ALL, COMMON, corrupt_seeded
from regrow.robustness._corrupted import GeneratedSets, image_seeds
from regrow.robustness._settings import choose_corruptions
from regrow.robustness._sources import choose_source

IMAGES = np.random.default_rng(3).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
LABELS = np.arange(7) % 3


def data(images=IMAGES):
    return ImageData(
        name="noise", train_images=images, train_labels=LABELS, test_images=images,
        test_labels=LABELS, classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.2,) * 3, flip=False,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
@pytest.mark.parametrize("kind", ["gaussian_noise", "snow", "contrast"])
def test_images_do_not_depend_on_the_batch_they_are_made_in(tmp_path, chunk, kind):
    sets = GeneratedSets(IMAGES, tmp_path / "c", chunk=chunk)
    expected = corrupt_seeded(IMAGES, kind, 4, seeds=image_seeds(5, n_images=7))
    found = sets.images(5, kind, 4)
    assert (found == expected).all()
    assert sets.checksums == {"seed 5": {f"{kind}-4": checksum(expected)}}


def test_images_are_made_once_and_kept_until_their_seed_is_done(tmp_path, monkeypatch):
    from regrow.robustness import _corrupted as module

    calls = []

    def counted(*args, **kwargs):
        calls.append(args[1:3])
        return corrupt_seeded(*args, **kwargs)

    monkeypatch.setattr(module, "corrupt_seeded", counted)
    sets = GeneratedSets(IMAGES, tmp_path / "c")
    first = np.array(sets.images(0, "fog", 1))
    assert (sets.images(0, "fog", 1) == first).all()
    sets.images(1, "fog", 1)
    assert calls == [("fog", 1), ("fog", 1)]
    later = GeneratedSets(IMAGES, tmp_path / "c", expected=sets.checksums)
    assert (later.images(0, "fog", 1) == first).all()
    assert len(calls) == 2
    with pytest.raises(ValueError, match="read-only"):
        later.images(0, "fog", 1)[0] = 0
    sets.release(0)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["seed1"]
    sets.release(1)
    sets.release(1)
    assert not (tmp_path / "c").exists()


def test_other_images_than_those_of_an_earlier_session_are_refused(tmp_path):
    sets = GeneratedSets(IMAGES, tmp_path / "c", expected={"seed 0": {"fog-1": "0" * 64}})
    with pytest.raises(ValueError, match=r"fog at severity 1 for seed 0 .* had 0000"):
        sets.images(0, "fog", 1)
    damaged = GeneratedSets(IMAGES, tmp_path / "d")
    damaged.images(0, "fog", 1)
    path = tmp_path / "d" / "seed0" / "fog-1.npy"
    array = np.load(path)
    array[0] ^= 1
    np.save(path, array)
    again = GeneratedSets(IMAGES, tmp_path / "d", expected=damaged.checksums)
    with pytest.raises(ValueError, match="packages or textures"):
        again.images(0, "fog", 1)
    # The damaged file is gone, so that the next session makes it anew.
    assert checksum(np.array(again.images(0, "fog", 1))) == damaged.checksums["seed 0"]["fog-1"]


def publish(folder, kinds):
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(LABELS, 5))
    for offset, kind in enumerate(kinds):
        stack = [IMAGES // (severity + offset) for severity in range(1, 6)]
        np.save(folder / f"{kind}.npy", np.concatenate(stack).astype(np.uint8))


def test_published_sets_are_read_and_checked(tmp_path):
    publish(tmp_path / "C", ["fog", "frost", "caustics"])
    source = choose_source(
        data(), asked="all", severities=[2, 5], frost=None, corrupted=tmp_path / "C"
    )
    assert source.kinds == ("frost", "fog", "caustics")
    assert "gaussian_noise" in source.note
    sets = source.open(data(), folder=tmp_path / "unused", expected={})
    for seed in (0, 1):
        assert (sets.images(seed, "fog", 2) == IMAGES // 2).all()
        sets.release(seed)
    assert sets.checksums == {"published": {"fog-2": checksum(IMAGES // 2)}}
    assert not (tmp_path / "unused").exists()
    other = source.open(data(), folder=tmp_path, expected={"published": {"fog-2": "x"}})
    with pytest.raises(ValueError, match="another file than when this study began"):
        other.images(0, "fog", 2)
    with pytest.raises(ValueError, match="'snow' cannot be had: not in"):
        choose_source(data(), asked=["snow"], severities=[2], frost=None, corrupted=tmp_path / "C")
    with pytest.raises(ValueError, match="frost has no use with corrupted"):
        choose_source(data(), asked="all", severities=[2], frost="x", corrupted=tmp_path / "C")


def test_frost_is_left_out_without_its_textures_and_that_is_said():
    source = choose_source(data(), asked="all", severities=[1], frost=None, corrupted=None)
    assert len(source.kinds) == 18
    assert source.note.startswith("Without frost: ")
    common = choose_source(data(), asked="common", severities=[1], frost=None, corrupted=None)
    assert set(common.kinds) == set(COMMON) - {"frost"}
    named = choose_source(data(), asked=["fog"], severities=[1], frost=None, corrupted=None)
    assert (named.kinds, named.note) == (("fog",), None)


def test_with_textures_there_are_nineteen(tmp_path):
    random = np.random.default_rng(0)
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        picture = random.integers(0, 256, (220, 200, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    source = choose_source(data(), asked="all", severities=[1], frost=tmp_path, corrupted=None)
    assert (source.kinds, source.note) == (ALL, None)
    sets = source.open(data(), folder=tmp_path / "c", expected={})
    assert (sets.images(0, "frost", 1) != IMAGES).any()
    (tmp_path / "frost3.png").unlink()
    with pytest.raises(FileNotFoundError, match="frost3"):
        choose_source(data(), asked=["fog"], severities=[1], frost=tmp_path, corrupted=None)


def test_names_are_put_into_the_order_of_the_benchmark():
    kinds, note = choose_corruptions(
        ["saturate", "fog", "snow"], available=["fog", "snow", "saturate"], missing="x"
    )
    assert (kinds, note) == (("snow", "fog", "saturate"), None)
    with pytest.raises(ValueError, match="named once each"):
        choose_corruptions(["fog", "fog"], available=["fog"], missing="x")
