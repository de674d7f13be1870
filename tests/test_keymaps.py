"""Names of other programs and ours, and what is done to arrays on the way."""

from pathlib import Path

import numpy as np
import pytest

from minifcn import data
from minifcn.weights import Foreign, WeightsError
from minifcn.weights.keymaps import keras_layer, named_tensors
from minifcn.weights.transforms import (
    dense_of_keras,
    fitted,
    fold_batch_norm,
    fold_input,
    is_bilinear,
    scale_scores,
    ungrouped,
)


def named(tensors, format="torch", **info):
    arrays = {name: np.full(shape, 1.0, np.float32) for name, shape in tensors.items()}
    return named_tensors(Foreign(Path("file"), format, arrays, info))


def names(tensors, format="torch", **info):
    found = named(tensors, format, **info)
    return {source.raw: name for name, source in found.sources.items()}


def refused(tensors, format="torch", **info):
    with pytest.raises(WeightsError) as caught:
        named(tensors, format, **info)
    return str(caught.value)


# ---- names ---------------------------------------------------------------------------------------


def test_torchvisions_vgg16():
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    layers = ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    layers += [f"conv{stage}_{i}" for stage in (3, 4, 5) for i in (1, 2, 3)]
    raw = [f"features.{n}.weight" for n in places] + [f"classifier.{n}.bias" for n in (0, 3, 6)]
    ours = [f"{layer}.weight" for layer in layers] + [f"fc{n}.bias" for n in (6, 7, 8)]
    assert names(dict.fromkeys(raw, (4, 3, 3, 3))) == dict(zip(raw, ours, strict=True))


def test_torchvisions_alexnet_is_told_by_its_large_kernel():
    raw = {"features.0.weight": (4, 3, 11, 11), "features.3.weight": (4, 4, 5, 5)}
    raw |= {f"features.{n}.bias": (4,) for n in (6, 8, 10)}
    raw |= {f"classifier.{n}.weight": (4, 4) for n in (1, 4, 6)}
    assert named(raw).naming == "torchvision alexnet"
    assert list(names(raw).values()) == [
        *("conv1.weight", "conv2.weight", "conv3.bias", "conv4.bias", "conv5.bias"),
        *("fc6.weight", "fc7.weight", "fc8.weight"),
    ]


def norm(layer, size=4):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{layer}.bn.{p}": (size,) for p in parts} | {f"{layer}.bn.num_batches_tracked": ()}


def test_torchvisions_googlenet():
    layers = ["conv1", "conv2", "conv3", "inception3a.branch1", "inception4e.branch2.0"]
    layers += [f"inception5b.{b}" for b in ("branch2.1", "branch3.0", "branch3.1", "branch4.1")]
    layers += ["aux1.conv"]
    raw = {}
    for layer in layers:
        raw |= {f"{layer}.conv.weight": (4, 3, 1, 1), **norm(layer)}
    raw |= {"fc.weight": (5, 4), "aux2.fc1.bias": (4,), "aux2.fc2.bias": (5,)}
    found = named(raw)
    assert found.unknown == {}
    assert {name.rpartition(".")[0] for name in found.sources} == {
        *("conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3", "inception_3a.1x1"),
        *("inception_4e.3x3_reduce", "inception_5b.3x3", "inception_5b.5x5_reduce"),
        *("inception_5b.5x5", "inception_5b.pool_proj", "loss1.conv"),
        *("loss3_classifier", "loss2.fc", "loss2.classifier"),
    }
    assert found.sources["conv2_3x3.bias"].changed == "folded"


def test_caffe_and_chainer():
    layers = {
        "conv1_1": "conv1_1",
        "score_fr_sem": "score_fr_sem",
        "conv1/7x7_s2": "conv1_7x7_s2",
        "conv2/3x3_reduce": "conv2_3x3_reduce",
        "inception_4b/5x5": "inception_4b.5x5",
        "loss1/fc": "loss1.fc",
        "loss3/classifier": "loss3_classifier",
        "fc6-conv": "fc6",
    }
    for format, parts in (("caffe", "01"), ("caffe-hdf5", "01"), ("chainer", "Wb")):
        raw = {f"{layer}/{part}": (4,) for layer in layers for part in parts}
        ours = [f"{layer}.{p}" for layer in layers.values() for p in ("weight", "bias")]
        assert names(raw, format) == dict(zip(raw, ours, strict=True))


def test_pytorch_with_caffes_layers_and_data_parallel():
    assert names({"module.conv1_1.weight": (1,), "module.upscore2.weight": (1,)}) == {
        "module.conv1_1.weight": "conv1_1.weight",
        "module.upscore2.weight": "upscore2.weight",
    }


def test_keras_of_three_times():
    assert keras_layer("block3_conv2") == "conv3_2"
    for parts in (("{0}_W_1:0", "{0}_b_1:0"), ("{0}/kernel:0", "{0}/bias:0"), ("kernel", "bias")):
        raw = [f"{n}/{p.format(n)}" for n in ("block1_conv2", "predictions") for p in parts]
        shapes = [(3, 3, 4, 8), (8,), (8, 5), (5,)]
        found = named(dict(zip(raw, shapes, strict=True)), "keras")
        assert list(found.sources) == ["conv1_2.weight", "conv1_2.bias", "fc8.weight", "fc8.bias"]
        assert found.sources["conv1_2.weight"].array.shape == (8, 4, 3, 3)
        assert found.sources["fc8.weight"].array.shape == (5, 8)
    raw = {"layers/conv2d_4/vars/0": (3, 3, 4, 8), "layers/conv2d_4/vars/1": (8,)}
    info = {"layers/conv2d_4/name": "block2_conv1"}
    assert list(names(raw, "keras", **info).values()) == ["conv2_1.weight", "conv2_1.bias"]


def test_what_means_nothing_is_listed():
    assert list(named({"features.1.weight": (4,), "features.0.weight": (4, 3, 3, 3)}).unknown) == [
        "features.1.weight"
    ]
    assert list(named({"conv1_1/2": (4,), "conv1_1/0": (4,)}, "caffe").unknown) == ["conv1_1/2"]
    assert list(named({"a/gamma:0": (4,)}, "keras").unknown) == ["a/gamma:0"]
    assert list(named({"loose": (4,)}).unknown) == ["loose"]


def test_two_arrays_for_one_parameter():
    message = refused({"fc6/0": (2, 2), "fc6-conv/0": (2, 2)}, "caffe")
    assert "file: fc6/0 and fc6-conv/0 are both fc6.weight" in message


def test_an_incomplete_batch_normalisation():
    raw = {"conv1.conv.weight": (4, 3, 7, 7), **norm("conv1")}
    del raw["conv1.bn.running_var"]
    assert "batch normalisation of conv1_7x7_s2 lacks running_var" in refused(raw)
    raw = {"conv1.conv.weight": (4, 3, 7, 7), **norm("conv1"), **norm("conv2")}
    assert "batch normalisation of conv2_3x3_reduce lacks its weight" in refused(raw)
    raw = {"conv1.conv.weight": (4, 3, 7, 7), **norm("conv1", size=5)}
    assert "lacks equal sizes" in refused(raw)


def test_kerass_theano_kernels_are_refused():
    assert "on Theano, whose kernels are mirrored" in refused(
        {"a/b": (1,)}, "keras", backend="theano"
    )


# ---- arrays --------------------------------------------------------------------------------------


def test_what_fits_and_what_does_not(rng):
    for old, new in [
        ((8, 3, 2, 2), (8, 3, 2, 2)),
        ((8, 12), (8, 3, 2, 2)),  # fully connected to convolution
        ((1, 1, 8, 12), (8, 3, 2, 2)),  # the same in an old file
        ((1, 1, 8, 12), (8, 12)),
        ((8, 3, 2, 2), (8, 12)),  # and back
        ((1, 1, 1, 8), (8,)),
        ((1, 1, 1, 1), (1,)),
        ((1, 1, 3, 3), (1, 1, 3, 3)),
        ((1, 12), (1, 3, 2, 2)),
        ((1, 1, 1, 12), (1, 3, 2, 2)),
        ((4, 6), (4, 6, 1, 1)),
    ]:
        array = rng.normal(size=old)
        found = fitted(array, new)
        assert found.shape == new
        assert found.tobytes() == array.tobytes()
        assert np.shares_memory(found, array)
    for old, new in [
        ((12, 8), (8, 12)),
        ((8, 12), (8, 3, 2, 3)),
        ((8, 3, 2, 2), (8, 3, 4, 1)),
        ((8, 3, 2, 2), (8, 2, 3, 2)),
        ((24, 4), (8, 3, 2, 2)),
        ((2, 4), (8,)),
        ((8,), (8, 1)),
        ((), (1,)),
        ((21, 4096), (60, 4096, 1, 1)),
    ]:
        assert fitted(np.zeros(old), new) is None


def test_kerass_fully_connected_layer_reads_rows_columns_channels(rng):
    """The same maps give the same numbers, when they are flattened in Keras's order."""
    C, side, O = 5, 3, 4
    weight, maps = rng.normal(size=(side * side * C, O)), rng.normal(size=(C, side, side))
    theirs = maps.transpose(1, 2, 0).reshape(-1) @ weight  # (h, w, C) flattened
    ours = np.einsum("ochw,chw->o", dense_of_keras(weight, C), maps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_array_equal(dense_of_keras(weight[:5], 5), weight[:5].T)  # 1 x 1: no maps
    np.testing.assert_array_equal(dense_of_keras(weight[:7], 5), weight[:7].T)


def test_batch_normalisation_is_folded_exactly(rng):
    weight, bias = rng.normal(size=(4, 3, 1, 1)), rng.normal(size=4)
    parts = {p: rng.uniform(0.5, 2, 4) for p in ("weight", "bias", "running_mean", "running_var")}
    x = rng.normal(size=3)
    for b in (None, bias):
        before = weight[:, :, 0, 0] @ x + (0 if b is None else b)
        scaled = (before - parts["running_mean"]) / np.sqrt(parts["running_var"] + 1e-3)
        w, moved = fold_batch_norm(weight, b, parts)
        expected = parts["weight"] * scaled + parts["bias"]
        np.testing.assert_allclose(w[:, :, 0, 0] @ x + moved, expected, rtol=1e-12)


@pytest.mark.parametrize("new", [data.CAFFE, data.TORCHVISION, data.UNIT])
@pytest.mark.parametrize("old", [data.TORCHVISION, data.UNIT, data.CAFFE_VGG, data.CAFFE])
def test_folding_the_input(rng, old, new):
    image = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
    weight, bias = rng.normal(size=(6, 3, 3, 3)), rng.normal(size=6)
    expected = np.einsum("ochw,chw->o", weight, old(image)) + bias
    folded, moved = fold_input(weight, bias, old, new)
    found = np.einsum("ochw,chw->o", folded, new(image)) + moved
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_scaled_scores_and_ungrouped_upsampling(rng):
    weight, x, factors = rng.normal(size=(3, 4, 1, 1)), rng.normal(size=4), rng.normal(size=4)
    found = scale_scores(weight, factors)[:, :, 0, 0] @ x
    np.testing.assert_allclose(found, weight[:, :, 0, 0] @ (x * factors))
    kernels = rng.normal(size=(3, 1, 4, 4))
    full = ungrouped(kernels, (3, 3, 4, 4))
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(full[i, j], kernels[i, 0] if i == j else 0)
    assert ungrouped(kernels, (4, 4, 4, 4)) is None
    assert ungrouped(np.zeros((3, 3, 4, 4)), (3, 3, 4, 4)) is None


def test_every_pair_of_classes_with_a_kernel_is_not_bilinear():
    """Caffe's filler without groups: it adds the scores of all classes up."""
    from minifcn.nn.init import bilinear_kernel

    assert not is_bilinear(np.broadcast_to(bilinear_kernel(4), (2, 2, 4, 4)))
    assert is_bilinear(ungrouped(np.broadcast_to(bilinear_kernel(4), (2, 1, 4, 4)), (2, 2, 4, 4)))
    assert not is_bilinear(np.zeros((2, 1, 4, 4)))
