"""Parameters for NumPy, Chainer and PyTorch."""

import numpy as np
import pytest

from minifcn import Tensor, data, models, no_grad, weights
from minifcn.weights import WeightsError
from minifcn.weights.foreign import open_foreign
from minifcn.weights.writers.npz import write_npz
from tests.narrow_nets import net_of


@pytest.mark.parametrize("style", ["minifcn", "chainer"])
@pytest.mark.parametrize(
    ("model", "options"), [("fcn8s", {"backbone": "googlenet"}), ("vgg16", {})]
)
def test_all_parameters_come_back_bit_by_bit(tmp_path, style, model, options):
    net, path = net_of(model, **options), tmp_path / "net.npz"
    names = write_npz(net, path, style=style)
    found = open_foreign(path)
    assert found.format == {"minifcn": "numpy", "chainer": "chainer"}[style]
    assert list(found.tensors) == names
    for (name, array), ours in zip(found.tensors.items(), net.state_dict().items(), strict=True):
        *layer, kind = ours[0].split(".")
        theirs = "/".join([*layer, {"weight": "W", "bias": "b"}[kind]])
        assert name == (theirs if style == "chainer" else ours[0])
        np.testing.assert_array_equal(array, ours[1], strict=True)
    with np.load(path) as arrays:
        assert list(arrays) == names


def test_fcn8s_has_chainers_names():
    """Those of the published fcn8s_from_caffe.npz, as far as they are not VGG16's."""
    from minifcn.weights.writers.npz import chainer_name

    names = list(map(chainer_name, net_of("fcn8s", "vgg16").state_dict()))
    assert names[:2] == ["conv1_1/W", "conv1_1/b"]
    assert set(names[names.index("fc7/b") + 1 :]) == {
        *("score_fr/W", "score_fr/b", "score_pool4/W", "score_pool4/b"),
        *("score_pool3/W", "score_pool3/b", "upscore2/W", "upscore_pool4/W", "upscore8/W"),
    }


def test_bad_styles_and_places_are_refused(tmp_path, monkeypatch):
    net = net_of("fcn32s")
    with pytest.raises(WeightsError, match=r"net.npz: style='keras' must be one of minifcn, chai"):
        write_npz(net, tmp_path / "net.npz", style="keras")
    with pytest.raises(WeightsError, match="nowhere does not exist"):
        write_npz(net, tmp_path / "nowhere" / "net.npz")

    def full(*_, **__):
        raise OSError(28, "no space left")

    (tmp_path / "net.npz").write_text("before")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WeightsError, match=r"net.npz: cannot be written: no space .* make room"):
        write_npz(net, tmp_path / "net.npz")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


# PyTorch


def twin_of(torch, net):
    """Return a PyTorch module with the layers of an FCN under the same names, and its scores."""

    def counterpart(layer):
        """Return what PyTorch calls a layer, with weights of its own."""
        kind = getattr(torch.nn, type(layer).__name__)
        geometry = ("kernel_size", "stride", "padding", "dilation")
        given = {name: getattr(layer, name) for name in geometry if hasattr(layer, name)}
        if hasattr(layer, "weight"):
            given |= {"in_channels": layer.in_channels, "out_channels": layer.out_channels}
            given["bias"] = layer.bias is not None
        if hasattr(layer, "ceil_mode"):
            given["ceil_mode"] = layer.ceil_mode
        return kind(**given)

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in net.named_children():
                setattr(self, name, counterpart(layer))

        def forward(self, x):
            """FCN-8s with the released crops."""
            taps, h = {}, x
            for name in net.trunk_names:
                taps[name] = h = getattr(self, name)(h)
            up = self.upscore2(self.score_fr(h))
            up = self.upscore_pool4(up + cut(self.score_pool4(taps["pool4"]), up, 5))
            return cut(self.upscore8(up + cut(self.score_pool3(taps["pool3"]), up, 9)), x, 31)

    def cut(array, like, start):
        height, width = like.shape[2:]
        return array[:, :, start : start + height, start : start + width]

    return Twin().eval()


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_pytorch_loads_the_parameters_and_gives_our_scores(tmp_path, rng, kind):
    torch = pytest.importorskip("torch")
    net, path = net_of("fcn8s", "vgg16"), tmp_path / f"net.{kind}"
    if kind == "npz":
        write_npz(net, path)
        with np.load(path) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays}
    else:
        from safetensors.torch import load_file

        shapes = data.shapes("val")
        options = {"palette": shapes.palette, "preprocessing": data.CAFFE}
        weights.save(net, path, classes=shapes.classes, **options)
        state = load_file(path)
    twin = twin_of(torch, net)
    twin.load_state_dict(state)  # strict: all names must be there, and no other
    image = rng.normal(0, 30, (2, 3, 61, 87)).astype(np.float32)
    with no_grad(), torch.no_grad():
        ours, theirs = net(Tensor(image)).data, twin(torch.from_numpy(image)).numpy()
    assert abs(theirs - ours).max() <= 1e-4 * abs(ours).max()


@pytest.mark.oracle
def test_pytorch_loads_a_classifier(tmp_path):
    torch = pytest.importorskip("torch")
    net = models.vgg16(5, width=0.125, image_size=64)
    write_npz(net, tmp_path / "net.npz")
    layers = torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(layer.in_features, layer.out_features)
            if hasattr(layer, "in_features")
            else torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
            for name, layer in net.named_children()
            if hasattr(layer, "weight")
        }
    )
    with np.load(tmp_path / "net.npz") as arrays:
        layers.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays})
