"""Files cut short, with bits flipped, or with lies in them: one clear error that names the file."""

import contextlib
import copy
import io
import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from damage import LIES, damaged, damages, npy, npz, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.data import open_array, read_arrays
from regrow.robustness import Results, corruption_sheet, read_results, write_report
from regrow.robustness._config import read_config
from regrow.robustness._corrupted import GeneratedSets
from regrow.robustness._examples import read_examples
from regrow.robustness._presentation import terminal_text
from regrow.robustness._results import write_results
from regrow.robustness._rows import check_accuracies
from regrow.robustness._summary import summarise
from regrow.robustness.corruptions._frost import load_textures
from regrow.study import (
    Images,
    Recipe,
    StudyFolder,
    load_state,
    read_csv,
    read_json,
    save_state,
    train_classifier,
    write_array,
    write_arrays,
    write_json,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# -- checkpoints ---------------------------------------------------------------------------------


def small_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, padding=1)


class Run:
    """A training of two epochs and its checkpoint, the third to come."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.model = small_net()
        self.optimizer = RECIPE.optimizer(self.model)
        self.updater = regrow.set_training(
            self.model, self.optimizer, sparsity=0.5, n_steps=6, interval=2, seed=1
        )

    def train(self):
        pixels = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
        images = Images.from_arrays(pixels, np.arange(16) % 3)
        return train_classifier(
            self.model, images, recipe=RECIPE, optimizer=self.optimizer, updater=self.updater,
            seed=1, checkpoint=self.checkpoint,
        )  # fmt: skip

    def everything(self):
        state = [self.model.state_dict(), self.optimizer.state_dict(), self.updater.state_dict()]
        return repr(copy.deepcopy(state))


@pytest.fixture(scope="module")
def checkpoint(folder):
    """The bytes of a checkpoint after two of three epochs, and its state."""
    path = folder / "whole.safetensors"
    done = []

    def stop():
        done.append(1)
        if len(done) == 5:
            raise KeyboardInterrupt

    run = Run(path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            run.model, Images.from_arrays(pixels, np.arange(16) % 3), recipe=RECIPE,
            optimizer=run.optimizer, updater=run.updater, seed=1, checkpoint=path, on_step=stop,
        )  # fmt: skip
    return path.read_bytes(), load_state(path)


@settings(max_examples=150)
@given(changes=damages)
def test_damaged_checkpoints(folder, checkpoint, changes):
    path = folder / "damaged.safetensors"
    path.write_bytes(damaged(checkpoint[0], changes))
    state = read_or_refuse(lambda: load_state(path), path.name)
    assert state is None or isinstance(state, dict)


JUNK = [None, True, -1, 10**40, 0.5, float("nan"), "x", [], {}, [[1]], {"a": 1}, torch.zeros(2),
        torch.zeros(3, 3, dtype=torch.int64), torch.tensor(float("nan"))]  # fmt: skip


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def test_whole_checkpoints_are_gone_on_from(folder, checkpoint):
    path = folder / "good.safetensors"
    path.write_bytes(checkpoint[0])
    assert Run(path).train().epochs == 3


@settings(max_examples=60)
@given(data=st.data())
def test_mutated_checkpoints_change_nothing_or_train_on(folder, checkpoint, data):
    state = copy.deepcopy(checkpoint[1])
    path = data.draw(st.sampled_from(list(places(state))))
    parent = state
    for key in path[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()):
        parent[path[-1]] = data.draw(st.sampled_from(JUNK))
    else:
        del parent[path[-1]]
    file = folder / "mutated.safetensors"
    save_state(file, state)
    run = Run(file)
    before, content = run.everything(), file.read_bytes()
    done = read_or_refuse(run.train, file.name)
    if done is None:
        assert run.everything() == before
        assert file.read_bytes() == content
    else:
        assert done.epochs == 3
        assert run.updater.steps == 6


@settings(max_examples=100)
@given(changes=damages)
def test_damaged_torch_checkpoints_of_the_updater(changes):
    """torch's own loader says what it likes; what it lets through is refused in full or sound."""
    run = Run(None)
    buffer = io.BytesIO()
    torch.save(run.updater.state_dict(), buffer)
    before = run.everything()
    try:
        state = torch.load(io.BytesIO(damaged(buffer.getvalue(), changes)), weights_only=True)
    except Exception:  # noqa: BLE001  # torch's zip reader and unpickler raise half a dozen kinds
        return
    try:
        run.updater.load_state_dict(state)
    except regrow.SparsityError:
        assert run.everything() == before
    else:
        run.train()


def test_a_header_that_claims_what_is_not_there(folder):
    path = folder / "claims.safetensors"
    for header in (
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"format":"regrow-state","version":"1","state":"' + b"[" * 10**5 + b'"}}',
        b"[" * 10**6,
        b"{}",
    ):
        for length in (len(header), 2**60, 0):
            path.write_bytes(struct.pack("<Q", length) + header + bytes(8))
            with pytest.raises(ValueError, match=r"claims\.safetensors"):
                load_state(path)


# -- JSON and tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[" * 60 + "]" * 60, '{"a":' * 200 + "1" + "}" * 200, "NaN",
     "[1e999]", "-Infinity", "1" * 5000, '"\\ud800"', '{"\\udfff": 1}', "\ufeff{}", "{'a': 1}",
     "\x00", '{"a": 1,}'],
)  # fmt: skip
def test_json_that_is_none(folder, text):
    path = folder / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json holds no JSON"):
        read_json(path)


def test_json_of_any_kind_is_read_as_it_was_written(folder):
    value = {"a": [1, 2.5, None, True, {"ü": "\n"}], "b": -(10**30), "": []}
    write_json(folder / "good.json", value)
    assert read_json(folder / "good.json") == value


@pytest.mark.parametrize(
    "text",
    ["", "a\n1", "a,a,b\n1,2,3", 'a,b\n"1,2', "a,b\n1", "a,b\n1,2,3", 'a,b\n1,"' + "x" * 200_000,
     'a,b\n1,2"3"4\n"5"6,7'],
)  # fmt: skip
def test_tables_that_are_none(folder, text):
    path = folder / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv"):
        read_csv(path, columns=["a", "b"])
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(ValueError, match=r"bad\.csv"):
        read_csv(path, columns=["a", "b"])


def results(n_seeds=2):
    accuracies, runs, curves = [], [], []
    for method, sparsity in (("dense", 0.0), ("rigl", 0.5)):
        for seed in range(n_seeds):
            head = {"data": "bars", "model": "net", "method": method, "sparsity": sparsity,
                    "seed": seed}  # fmt: skip
            accuracies += [
                {**head, "corruption": kind, "severity": severity, "accuracy": 0.5, "n_images": 9}
                for kind, severity in (("clean", 0), ("fog", 1))
            ]
            names = ["nnz", "parameters", "live_parameters", "rewirings", "weight_steps",
                     "training_flops", "inference_flops", "bytes"]  # fmt: skip
            shares = dict.fromkeys(["counted_sparsity", "exploration", "seconds"], 0.5)
            runs.append({**head, **dict.fromkeys(names, 7), **shares})
            curves.append({**head, "epoch": 1, "loss": 1.0, "accuracy": 0.5, "lr": 0.1,
                           "rewirings": 1, "exploration": 0.6})  # fmt: skip
    return Results(accuracies, runs, curves)


CONFIG = {
    "settings": {"study": "robustness", "data": {"name": "bars"}, "severities": [1]},
    "environment": {"versions": {"torch": "2"}},
    "sessions": [{"versions": {"torch": "2"}}],
    "threads": 2,
    "weight_steps": 6,
    "rewiring": None,
    "widths": {"0.5": [3, 4]},
    "notes": ["Without frost: there is no folder of it."],
    "checksums": {"seed 0": {"fog-1": "0" * 64}},
}


@pytest.fixture(scope="module")
def study(folder):
    root = folder / "study"
    root.mkdir()
    write_results(results(), root)
    write_json(root / "config.json", CONFIG)
    image = np.full((32, 32, 3), 7, dtype=np.uint8)
    write_arrays(root / "examples.npz", {"clean-0": image, "fog-1": image})
    return root


CELL_JUNK = ["", "nan", "inf", "-1", "1e400", "9" * 5000, "x", "0.5", "dense", "rigl", "2", "\x00",
             "\u0663", "a" * 1000, "99", "<b>", "clean", "fog", "1_0", "1e300"]  # fmt: skip


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_tables_are_refused_or_summarised(folder, study, data):
    root = folder / "tables"
    root.mkdir(exist_ok=True)
    name = data.draw(st.sampled_from(["results.csv", "runs.csv", "curves.csv"]))
    for one in ("results.csv", "runs.csv", "curves.csv"):
        (root / one).write_bytes((study / one).read_bytes())
    if data.draw(st.booleans()):
        (root / name).write_bytes(damaged((study / name).read_bytes(), data.draw(damages)))
    else:
        lines = (study / name).read_text().splitlines()
        row = data.draw(st.integers(1, len(lines) - 1))
        fields = lines[row].split(",")
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(st.sampled_from(CELL_JUNK))
        lines[row] = ",".join(fields)
        (root / name).write_text("\n".join(lines) + "\n")
    found = read_or_refuse(lambda: read_results(root), name)
    if found is not None:
        # Runs that cannot be compared are refused too, by a sentence that names no file.
        with contextlib.suppress(ValueError):
            terminal_text(summarise(found))


def set_at(value, path, new):
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return value


@pytest.mark.parametrize(
    "junk", [None, 3, "x", [], [3], {"a": 3}, {"a": [None]}, True, [[[]]]], ids=repr
)
def test_configurations_with_junk_are_refused_or_shown(folder, junk):
    from regrow.robustness._report import _settings

    root = folder / "configured"
    root.mkdir(exist_ok=True)
    for path in places(CONFIG):
        write_json(root / "config.json", set_at(CONFIG, path, junk))
        config = read_or_refuse(lambda: read_config(StudyFolder(root)), "config.json")
        if config is not None:
            _settings(config)
            assert all(isinstance(note, str) for note in config.get("notes", []))


@settings(max_examples=8)
@given(
    changes=damages,
    name=st.sampled_from(["results.csv", "config.json", "curves.csv", "examples.npz"]),
)
def test_a_report_is_whole_or_as_it_was(folder, study, changes, name):
    root = folder / "report"
    root.mkdir(exist_ok=True)
    for path in study.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    (root / "report.html").write_text("as it was")
    (root / name).write_bytes(damaged((study / name).read_bytes(), changes))
    before = sorted(path.name for path in root.iterdir())
    try:
        write_report(root)
    except ValueError:
        assert (root / "report.html").read_text() == "as it was"
    else:
        assert (root / "report.html").read_text().rstrip().endswith("</html>")
    assert sorted(path.name for path in root.iterdir()) == before


def test_the_command_says_in_one_line_what_is_wrong(folder, study):
    from click.testing import CliRunner

    from regrow.cli._report import report

    root = folder / "commanded"
    root.mkdir()
    for path in study.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    for name, content in (
        ("examples.npz", b"PK\x03\x04 nonsense"),
        ("config.json", b"[" * 10**5),
        ("runs.csv", b"\xff\xfe\x00"),
        ("results.csv", b"x" * 200_000),
    ):
        kept = (root / name).read_bytes()
        (root / name).write_bytes(content)
        result = CliRunner().invoke(report, [str(root)])
        assert result.exit_code == 2
        assert name in result.output
        assert len(result.output.strip().splitlines()) == 1
        assert not (root / "report.html").exists()
        (root / name).write_bytes(kept)


@settings(max_examples=100)
@given(rows=st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["corruption", "severity", "accuracy"]), inner),
    ),
))  # fmt: skip
def test_measurements_of_an_earlier_session(rows):
    try:
        checked = check_accuracies(rows)
    except ValueError:
        return
    assert all(set(row) == {"corruption", "severity", "accuracy"} for row in checked)
    assert all(0 <= row["accuracy"] <= 1 and 0 <= row["severity"] <= 5 for row in checked)


# -- arrays and pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(folder, lie):
    path = folder / "lie.npz"
    path.write_bytes(npz({"a": LIES[lie]}))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"lie\.npz"):
        read_arrays(path)
    path = folder / "lie.npy"
    path.write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"lie\.npy"):
        open_array(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


def test_a_bomb_is_refused_before_it_is_unpacked(folder):
    path = folder / "bomb" / "examples.npz"
    path.parent.mkdir()
    path.write_bytes(npz({"clean-0": npy((200_000_000,), content=bytes(200_000_000))}))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"examples\.npz is damaged.*2000\d* bytes"):
        read_examples(path.parent)


@settings(max_examples=120)
@given(changes=damages)
def test_damaged_archives(folder, changes):
    whole = folder / "whole.npz"
    if not whole.exists():
        random = np.random.default_rng(0)
        write_arrays(whole, {"clean-0": random.integers(0, 9, (8, 8, 3)).astype(np.uint8),
                             "fog-1": np.zeros((8, 8, 3), dtype=np.uint8)})  # fmt: skip
    path = folder / "damaged" / "examples.npz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damaged(whole.read_bytes(), changes))
    found = read_or_refuse(lambda: read_examples(path.parent), "examples.npz")
    assert found is None or all(image.dtype == np.uint8 for image in found.values())


@settings(max_examples=80)
@given(changes=damages)
def test_damaged_sets_of_corrupted_images(folder, changes):
    clean = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    sets = GeneratedSets(clean, folder / "corrupted")
    path = folder / "corrupted" / "seed0" / "fog-1.npy"
    write_array(path, clean)
    path.write_bytes(damaged(path.read_bytes(), changes))
    images = read_or_refuse(lambda: sets.images(0, "fog", 1), path.name)
    assert images is None or (images.shape == clean.shape and images.dtype == np.uint8)


def picture(kind):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@settings(max_examples=150)
@given(changes=damages, kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF"]))
def test_damaged_pictures(folder, changes, kind):
    from regrow.robustness._sheet import _square

    path = folder / "picture"
    path.write_bytes(damaged(picture(kind), changes))
    square = read_or_refuse(lambda: _square(path), path.name)
    assert square is None or square.shape in ((32, 32, 3), (64, 64, 3), (224, 224, 3))


def test_pictures_that_start_a_program_or_fill_the_memory(folder):
    from PIL import Image

    path = folder / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture"):
        corruption_sheet(path, out=folder / "sheet.png")
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture"):
        corruption_sheet(path, out=folder / "sheet.png")
    assert not (folder / "sheet.png").exists()


@settings(max_examples=60)
@given(changes=damages, kind=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_frost(folder, changes, kind):
    from PIL import Image

    frost = folder / "frost"
    frost.mkdir(exist_ok=True)
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    if not (frost / names[-1]).exists():
        for name in names:
            Image.new("RGB", (200, 200)).save(frost / name)
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200), (9, 9, 9)).save(buffer, kind)
    (frost / names[0]).write_bytes(damaged(buffer.getvalue(), changes))
    textures = read_or_refuse(lambda: load_textures(frost, 32), names[0])
    assert textures is None or len(textures) == 5


def test_frost_that_fills_the_memory(folder):
    from PIL import Image

    frost = folder / "huge"
    frost.mkdir()
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        Image.new("1", (9_000, 9_000)).convert("L").save(frost / name)
    with pytest.raises(ValueError, match=r"frost1\.png has 9000 x 9000 pixels"):
        load_textures(frost, 32)


def test_what_was_read_is_as_json_says(study):
    """The files here are whole: else every test above could pass by refusing all."""
    assert read_config(StudyFolder(study)) == json.loads((study / "config.json").read_text())
    assert len(read_results(study).results) == 8
    assert len(read_examples(study)) == 2
    assert "rigl" in terminal_text(summarise(read_results(study)))
