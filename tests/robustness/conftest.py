import numpy as np
import pytest
import torch
from torch import nn

from regrow.robustness import compare
from regrow.study import using_threads

OPTIONS = {
    "sparsity": 0.5,
    "seeds": 2,
    "epochs": 7,
    "batch_size": 8,
    "lr": 0.05,
    "corruptions": ["brightness", "impulse_noise"],
    "severities": [1, 5],
}


METHODS = ["dense", "dense-equal-parameters", "static", "set", "rigl", "mest-random",
           "granet-gradient", "gradual"]  # fmt: skip


@pytest.fixture(scope="session")
def methods():
    return METHODS


@pytest.fixture(autouse=True)
def one_thread():
    with using_threads(1):
        yield


def tiny_net(n_classes, *, width=(16, 24)):
    first, second = width
    return nn.Sequential(
        nn.Conv2d(3, first, 4, stride=4),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, n_classes),
    )


@pytest.fixture(scope="session")
def net():
    return tiny_net


@pytest.fixture(scope="session")
def arrays():
    """Bars in four places with noise: training (160, 32, 32, 3) and test (40, 32, 32, 3) images."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = random.integers(0, 90, (200, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 8] += 60
    images = images.astype(np.uint8)
    return (images[:160], labels[:160]), (images[160:], labels[160:])


@pytest.fixture
def options():
    """Settings of a study that takes a second or two a run: 140 weight steps, 20 rewirings."""
    return dict(OPTIONS)


@pytest.fixture(scope="session")
def study(tmp_path_factory, arrays):
    """A finished study of all methods."""
    with using_threads(1):
        return compare(
            tiny_net,
            *arrays,
            methods=METHODS,
            out=tmp_path_factory.mktemp("study") / "out",
            name="bars",
            **OPTIONS,
        )


class Recorder:
    """A progress that remembers what it was told."""

    def __init__(self):
        self.lines, self.total, self.done, self.finished = [], None, 0.0, False

    def say(self, text):
        self.lines.append(text)

    def begin(self, total):
        self.total = total

    def advance(self, amount, status):
        assert amount >= 0
        self.done += amount

    def finish(self):
        self.finished = True


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def make_results():
    """Rows of a study from arm -> seed -> (clean, common, extra) accuracies."""
    from regrow.robustness import Results

    def make(arms, *, data="bars", common="fog", severities=(1, 5)):
        results, runs = [], []
        for (method, sparsity), seeds in arms.items():
            for seed, (clean, of_common, of_extra) in seeds.items():
                head = {
                    "data": data,
                    "model": "net",
                    "method": method,
                    "sparsity": sparsity,
                    "seed": seed,
                }
                sets = [("clean", 0, clean)]
                for severity in severities:
                    sets.append((common, severity, of_common))
                    sets.append(("saturate", severity, of_extra))
                results += [
                    {**head, "corruption": k, "severity": s, "accuracy": a, "n_images": 10}
                    for k, s, a in sets
                ]
                numbers = dict.fromkeys(
                    ["nnz", "parameters", "live_parameters", "rewirings", "weight_steps",
                     "training_flops", "inference_flops", "bytes"], 10 + seed,
                )  # fmt: skip
                floats = dict.fromkeys(["counted_sparsity", "exploration", "seconds"], 0.5)
                runs.append({**head, **numbers, **floats})
        return Results(results, runs, [])

    return make


@pytest.fixture(scope="session")
def predictions():
    """Accuracy of a model on uint8 images, by the formula."""

    def share(model, pixels, labels, mean, std):
        inputs = ((torch.from_numpy(pixels) / 255 - torch.tensor(mean)) / torch.tensor(std)).float()
        with torch.no_grad():
            logits = model.eval()(inputs.permute(0, 3, 1, 2))
        return (logits.argmax(1).numpy() == labels).mean()

    return share
