import math

import pytest
import torch
from torch import nn

from regrow.models import resnet18, resnet34, small_cnn, vgg16_bn

NARROW = {
    small_cnn: (4, 6, 8),
    resnet18: (4, 6, 8, 10),
    resnet34: (4, 6, 8, 10),
    vgg16_bn: (4, 6, 8, 10, 12),
}
ALL = pytest.mark.parametrize("make", NARROW)


def meta(make, n_classes, **arguments):
    with torch.device("meta"):
        return make(n_classes, **arguments)


def maskable(model):
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(
    ("make", "n_classes", "n_layers", "n_weights"),
    [
        (vgg16_bn, 10, 14, 14_715_584),  # 14.72 M in the literature
        (resnet34, 100, 37, 21_311_168),  # 21.31 M
        (resnet18, 10, 21, 11_164_352),
        (small_cnn, 10, 5, 241_760),
    ],
)
def test_published_sizes(make, n_classes, n_layers, n_weights):
    weights = maskable(meta(make, n_classes))
    assert len(weights) == n_layers
    assert sum(w.numel() for w in weights) == n_weights


def test_vgg_adds_up_by_hand():
    widths, depths = (4, 6, 8, 10, 12), (2, 2, 3, 3, 3)
    n, n_in = 0, 3
    for width, depth in zip(widths, depths, strict=True):
        for _ in range(depth):
            n += 9 * n_in * width + 2 * width  # weights; gain and bias of the norm
            n_in = width
    n += 12 * 7 + 7
    assert sum(p.numel() for p in meta(vgg16_bn, 7, width=widths).parameters()) == n


def copy_parameters(source, target):
    """Same order of parameters and buffers, whatever their names."""
    pairs = zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    with torch.no_grad():
        for ours, theirs in pairs:
            theirs.copy_(ours)


@pytest.mark.parametrize(("make", "name"), [(resnet18, "resnet18"), (resnet34, "resnet34")])
def test_resnet_computes_what_torchvisions_does_with_the_cifar_stem(make, name):
    zoo = pytest.importorskip("torchvision.models", reason="the reference is torchvision's")
    reference = getattr(zoo, name)(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    torch.manual_seed(0)
    model = make(10).train()
    images = torch.rand(4, 3, 8, 8)
    model(images)  # moves the norms' running statistics off 0 and 1
    copy_parameters(model, reference)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference.eval()(images))


def test_vgg_computes_what_torchvisions_features_do():
    zoo = pytest.importorskip("torchvision.models.vgg", reason="the reference is torchvision's")
    torch.manual_seed(0)
    model = vgg16_bn(10).train()
    images = torch.rand(4, 3, 32, 32)
    model(images)
    reference = zoo.make_layers(zoo.cfgs["D"], batch_norm=True)
    ours = [m for m in model.features if not isinstance(m, nn.ReLU | nn.MaxPool2d)]
    theirs = [m for m in reference if not isinstance(m, nn.ReLU | nn.MaxPool2d)]
    for mine, other in zip(ours, theirs, strict=True):
        other.load_state_dict(mine.state_dict(), strict=not isinstance(mine, nn.Conv2d))
        if isinstance(other, nn.Conv2d):
            nn.init.zeros_(other.bias)
    with torch.no_grad():
        features = reference.eval()(images).flatten(1)
        expected = features @ model.classifier.weight.T + model.classifier.bias
        torch.testing.assert_close(model.eval()(images), expected)


@ALL
@pytest.mark.parametrize("size", [32, 64])
def test_logits_and_gradients(make, size):
    torch.manual_seed(0)
    model = make(5, width=NARROW[make])
    logits = model(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@ALL
def test_widths_are_those_of_the_stages(make):
    model = meta(make, 5, width=NARROW[make])
    seen = dict.fromkeys(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert tuple(seen) == NARROW[make]


@ALL
def test_initial_values_are_hes_and_repeatable(make):
    torch.manual_seed(3)
    first = make(10)
    torch.manual_seed(3)
    second = make(10)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    for module in first.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            n = weight.numel()
            assert module.bias is None
            # The standard deviation of n normal draws has a relative error of 1/sqrt(2 n).
            assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n))
            assert abs(weight.mean().item()) < 5 * expected / math.sqrt(n)


@ALL
@pytest.mark.parametrize(
    ("n_classes", "width", "error", "message"),
    [
        (1, None, ValueError, "n_classes must be at least 2, got 1"),
        (10.0, None, TypeError, "n_classes must be an integer"),
        (10, (4, 4), ValueError, r"width must hold \d numbers .*got \(4, 4\)"),
        (10, 16, TypeError, "width must be a sequence of"),
        (10, "1234", TypeError, "width must be a sequence of"),
        (10, 0, ValueError, "width must be at least 1, got 0"),
        (10, 4.0, TypeError, r"width must be an integer .*got 4\.0"),
    ],
)
def test_bad_arguments_are_refused(make, n_classes, width, error, message):
    if width is None:
        width = NARROW[make]
    elif width in (0, 4.0):
        width = (*NARROW[make][:-1], width)
    with pytest.raises(error, match=message):
        make(n_classes, width=width)


def test_small_cnn_learns_quickly():
    """A third of its width, 120 small steps: a study on digits relies on it."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from regrow.data import load

    data = load("digits", train_samples=600, test_samples=200)

    def tensor(images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return (pixels - data.mean[0]) / data.std[0]

    torch.manual_seed(0)
    model = small_cnn(10, width=(12, 24, 48))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    images, labels = tensor(data.train_images), torch.from_numpy(data.train_labels)
    for step in range(120):
        rows = torch.arange(step * 25, step * 25 + 25) % 600
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        predicted = model.eval()(tensor(data.test_images)).argmax(dim=1)
    assert (predicted == torch.from_numpy(data.test_labels)).float().mean().item() > 0.8
