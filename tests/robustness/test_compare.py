import csv
import itertools
import json

import numpy as np
import pytest
import torch

import regrow
from regrow.data import checksum
from regrow.robustness import answer, compare, corrupt_seeded, read_results, summarise
from regrow.study import DENSE, SCHEDULED, load_state
from regrow.topology import derived_generator


def table(study, name):
    with (study.folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_measurement_of_the_grid_is_there_once(study, methods):
    rows = table(study, "results")
    keys = [(r["method"], r["sparsity"], r["seed"], r["corruption"], r["severity"]) for r in rows]
    arms = [("dense", "0.0"), *((method, "0.5") for method in methods if method != "dense")]
    sets = [("clean", "0"), *itertools.product(["impulse_noise", "brightness"], ["1", "5"])]
    expected = {(*arm, seed, *one) for arm in arms for seed in "01" for one in sets}
    assert len(keys) == len(expected)
    assert set(keys) == expected
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert {(row["data"], row["n_images"]) for row in rows} == {("bars", "40")}
    assert {row["model"] for row in rows} == {"tests.robustness.conftest:tiny_net"} or all(
        row["model"].endswith(":tiny_net") for row in rows
    )
    runs = table(study, "runs")
    assert {(r["method"], r["sparsity"], r["seed"]) for r in runs} == {key[:3] for key in keys}


def test_all_arms_make_the_same_steps_and_only_dynamic_ones_rewire(study, methods):
    for run in table(study, "runs"):
        assert run["weight_steps"] == "140"
        assert run["rewirings"] == ("20" if run["method"] in SCHEDULED else "0")
        exploration = float(run["exploration"])
        if run["method"] in DENSE or run["method"] == "gradual":
            assert exploration == 1
        elif run["method"] == "static":
            assert exploration == pytest.approx(0.5, abs=0.01)
        else:
            assert 0.5 < exploration <= 1
    assert len(table(study, "curves")) == 7 * 2 * len(methods)


def test_counts_and_costs_are_those_of_the_weights(study, net):
    runs = {(r["method"], r["seed"]): r for r in table(study, "runs")}
    model = net(4)
    total = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    batch = torch.zeros(8, 3, 32, 32)
    dense = regrow.count(model, batch, {})
    for (method, _), run in runs.items():
        nnz, live = int(run["nnz"]), int(run["live_parameters"])
        if method == "dense":
            assert (nnz, live, int(run["parameters"])) == (weights, total, total)
            assert int(run["training_flops"]) == 140 * dense.training_flops
            assert int(run["inference_flops"]) == dense.forward_flops / 8
            assert float(run["counted_sparsity"]) == 0
        elif method == "dense-equal-parameters":
            assert live == int(run["parameters"])
            assert live == pytest.approx(int(runs["static", "0"]["live_parameters"]), rel=0.01)
        else:
            assert nnz == weights - weights // 2 or nnz == weights // 2
            assert live == total - weights + nnz
            assert int(run["parameters"]) == total
            assert 0 < int(run["training_flops"]) < 140 * dense.training_flops
        assert float(run["seconds"]) > 0
        assert int(run["bytes"]) > 0


@pytest.mark.parametrize("method", ["dense", "set", "granet-gradient", "dense-equal-parameters"])
def test_accuracies_are_those_of_the_last_weights_on_images_corrupted_image_by_image(
    study, arrays, net, predictions, method
):
    config = json.loads((study.folder / "config.json").read_text())
    _, (clean, labels) = arrays
    mean, std = config["settings"]["data"]["mean"], config["settings"]["data"]["std"]
    assert mean == pytest.approx(arrays[0][0].reshape(-1, 3).mean(0) / 255)
    sparsity = 0.0 if method == "dense" else 0.5
    width = {"width": config["widths"]["0.5"]} if method == "dense-equal-parameters" else {}
    for seed in (0, 1):
        name = f"cells/{method}-sparsity{sparsity}-seed{seed}/checkpoint.safetensors"
        state = load_state(study.folder / name)
        assert state["training"]["epochs"] == 7
        model = net(4, **width)
        model.load_state_dict(state["model"])
        found = {
            (r["corruption"], int(r["severity"])): float(r["accuracy"])
            for r in table(study, "results")
            if r["method"] == method and r["seed"] == str(seed)
        }
        seeds = torch.randint(2**62, (40,), generator=derived_generator(seed, "corruption"))
        for (kind, severity), accuracy in found.items():
            images = clean
            if kind != "clean":
                images = np.concatenate(
                    [
                        corrupt_seeded(
                            clean[i : i + 1], kind, severity, seeds=seeds[i : i + 1].numpy()
                        )
                        for i in range(40)
                    ]
                )
                sums = config["checksums"][f"seed {seed}"]
                assert sums[f"{kind}-{severity}"] == checksum(images)
            assert accuracy == predictions(model, images, labels, mean, std)


def test_runs_of_one_seed_share_weights_and_other_seeds_do_not(study):
    def first_loss(method, seed):
        for row in table(study, "curves"):
            if (row["method"], row["seed"], row["epoch"]) == (method, seed, "1"):
                return float(row["loss"])
        raise LookupError

    assert len({first_loss("dense", seed) for seed in "01"}) == 2
    sums = json.loads((study.folder / "config.json").read_text())["checksums"]
    assert sums["seed 0"].keys() == sums["seed 1"].keys()
    assert sums["seed 0"]["impulse_noise-1"] != sums["seed 1"]["impulse_noise-1"]
    assert sums["seed 0"]["brightness-1"] == sums["seed 1"]["brightness-1"]


def test_what_is_returned_is_what_the_files_say(study):
    again = read_results(study.folder)
    assert again.results == study.results.results
    assert [dict(r) for r in again.runs] == [
        {name: r[name] for name in again.runs[0]} for r in study.results.runs
    ]
    assert summarise(again) == study.summary
    assert study.answer == answer(study.summary)
    assert study.answer in (study.folder / "report.html").read_text().replace("&#x27;", "'")
    assert study.notes == ()
    learned = [arm.clean.mean for arm in study.summary.arms]
    assert min(learned) > 0.5


def test_the_folder_holds_the_log_and_no_image_that_was_needed_only_once(study):
    assert not (study.folder / "corrupted").exists()
    assert not list(study.folder.rglob("*.partial"))
    log = (study.folder / "log.txt").read_text()
    assert "epoch 7" in log
    assert "8 arms" in log
    config = json.loads((study.folder / "config.json").read_text())
    assert config["environment"]["versions"]["torch"] == torch.__version__
    assert config["rewiring"]["rewirings"] == 20
    assert config["threads"] == 1


def test_a_study_that_is_done_is_not_done_again(study, arrays, net, options, recorder, methods):
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*") if p.name == "result.json"}
    again = compare(
        net, *arrays, methods=methods, out=study.folder, name="bars", resume=True,
        progress=recorder, **options,
    )  # fmt: skip
    assert again.summary == study.summary
    assert recorder.total is None
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(FileExistsError, match="already holds this study"):
        compare(net, *arrays, methods=methods, out=study.folder, name="bars", **options)
    with pytest.raises(ValueError, match=r"recipe\.epochs is 7 there and 8 here"):
        compare(
            net, *arrays, methods=methods, out=study.folder, name="bars", resume=True,
            **{**options, "epochs": 8},
        )  # fmt: skip


def test_the_same_study_gives_the_same_numbers_whatever_the_global_generators_say(
    study, arrays, net, options, tmp_path, recorder
):
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002  # that it has no effect is the point
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    again = compare(
        net, *arrays, methods=["set", "dense"], out=tmp_path / "o", name="bars",
        progress=recorder, **options,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    rows = {tuple(row.items()) for row in study.results.results}
    assert {tuple(row.items()) for row in again.results.results} <= rows
    assert recorder.finished
    assert recorder.done == pytest.approx(recorder.total)
    assert recorder.lines[0].startswith("2 arms (set, dense; sparsity 0.5) x 2 seeds = 4 runs")
    assert "140 weight steps" in recorder.lines[0]
    assert "20 rewirings every 5" in recorder.lines[0]
    assert recorder.lines[-1].startswith("That takes about ")


def test_a_model_without_width_loses_one_arm_and_the_reason_is_told(
    arrays, options, net, tmp_path, recorder
):
    study = compare(
        lambda n_classes: net(n_classes),
        *arrays,
        methods=["dense", "dense-equal-parameters", "static"],
        out=tmp_path / "o",
        progress=recorder,
        **{**options, "seeds": 1, "epochs": 1},
    )
    (note,) = study.notes
    assert note.startswith("No arm dense-equal-parameters at sparsity 0.5: ")
    assert "width" in note
    assert note in recorder.lines
    assert note in (study.folder / "log.txt").read_text()
    assert "takes no argument width" in (study.folder / "report.html").read_text()
    assert [arm.method for arm in study.summary.arms] == ["dense", "static"]
    assert study.summary.arms[1].versus_dense.everything.low is None
    assert "static" in study.answer or "No answer" in study.answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, r"100 weight steps give 14 rewirings.*\(7 epochs of 20\)"),
        ({"epochs": 5, "interval": 4}, r"an interval of at most 3"),
        ({"rewirings": 5}, "rewirings must be at least 20"),
        ({"methods": ["dense", "snip"]}, "method must be one of"),
        ({"methods": ["dense", "dense"]}, "methods must name each only once"),
        ({"sparsity": 1.0}, "sparsity must lie in"),
        ({"sparsity": [0.5, 0.5]}, "only once"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"severities": 6}, "severity must be 1, 2, 3, 4 or 5"),
        ({"severities": [1, 1]}, "severities must be named once each"),
        ({"corruptions": "rain"}, "corruption must be one of"),
        ({"corruptions": "frost"}, "'frost' cannot be had"),
        ({"frost": "nowhere"}, "frost"),
        ({"corrupted": "nowhere"}, "not a folder"),
        ({"weight_step": "never"}, "weight_step must be one of"),
        ({"allocation": "erk"}, "allocation must be one of"),
        ({"device": "tpu"}, "device"),
        ({"device": "cuda:99"}, "device"),
        ({"batch_size": 200}, "batch_size 200 is more than the 160 training images"),
        ({"lr": -1.0}, "lr must be a finite number above 0"),
        ({"test": None}, "test is missing"),
        ({"build_model": "resnet19"}, "resnet19"),
        ({"build_model": 3}, "build_model must be a name or a function"),
        ({"build_model": lambda: None}, "called with the number of classes alone"),
        ({"build_model": lambda n: 3}, r"must return a torch\.nn\.Module, got int"),
        ({"build_model": lambda n: torch.nn.Linear(3, n)}, "cannot take images"),
        ({"build_model": lambda n: tiny(n + 1)}, r"gives \(2, 5\) for 2 images of 4 classes"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    arrays, net, options, tmp_path, change, message
):
    request = {
        "build_model": net, "train": arrays[0], "test": arrays[1], "out": tmp_path / "o",
        **options, **change,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        compare(**request)
    assert not (tmp_path / "o").exists()


def tiny(n_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, n_classes))


def test_images_of_a_size_without_constants_are_refused(net, options, tmp_path):
    images = np.zeros((16, 30, 30, 3), np.uint8)
    images[0] = 9
    pair = images, np.arange(16) % 4
    with pytest.raises(ValueError, match="32, 64, 224"):
        compare(net, pair, pair, out=tmp_path / "o", **options)


def test_a_training_that_diverges_leaves_a_log_that_says_why(arrays, net, options, tmp_path):
    with pytest.raises(FloatingPointError, match="learning rate below"):
        compare(net, *arrays, methods=["dense"], out=tmp_path / "o", **{**options, "lr": 1e20})
    assert "FloatingPointError" in (tmp_path / "o" / "log.txt").read_text()


def test_published_corrupted_images_are_used_as_they_are(
    arrays, net, options, tmp_path, predictions
):
    images, labels = arrays[1]
    folder = tmp_path / "BARS-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    stack = [images // severity for severity in range(1, 6)]
    for kind in ("fog", "brownish_noise"):
        np.save(folder / f"{kind}.npy", np.concatenate(stack).astype(np.uint8))
    request = {**options, "epochs": 1, "corruptions": "all", "corrupted": folder}
    study = compare(net, *arrays, methods=["dense", "static"], out=tmp_path / "o", **request)
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert list(config["checksums"]) == ["published"]
    assert config["settings"]["corrupted"] == "published"
    assert study.summary.corruptions == ["fog", "brownish_noise"]
    assert "frost" in study.notes[0]
    name = "cells/static-sparsity0.5-seed1/checkpoint.safetensors"
    model = net(4)
    model.load_state_dict(load_state(tmp_path / "o" / name)["model"])
    mean, std = config["settings"]["data"]["mean"], config["settings"]["data"]["std"]
    expected = predictions(model, (images // 5).astype(np.uint8), labels, mean, std)
    found = [
        row["accuracy"]
        for row in study.results.results
        if (row["method"], row["seed"], row["severity"]) == ("static", 1, 5)
    ]
    assert found == [expected, expected]
