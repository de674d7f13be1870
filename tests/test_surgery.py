"""Surgery: a classifier becomes a convolution, and parameters move from net to net."""

import numpy as np
import pytest

from minifcn import Tensor, models, nn
from minifcn.models import surgery
from minifcn.models.surgery import SurgeryError, check_loaded, expand_score, transplant

SIZES = {name: 67 if name in ("alexnet", "caffenet") else 64 for name in models.CLASSIFIERS}
every_classifier = pytest.mark.parametrize("name", list(models.CLASSIFIERS))


def classifier(name, num_classes=5, seed=0, **options):
    """A narrow classifier in which no bias is zero."""
    rng = np.random.default_rng(seed)
    options = {"width": 0.0625, "image_size": SIZES[name], **options}
    net = models.build(name, num_classes=num_classes, rng=rng, **options)
    return shaken(net, rng).eval()


def shaken(net, rng):
    for parameter in net.parameters():
        parameter.data[...] += rng.normal(scale=0.02, size=parameter.shape)
    return net


def small(stride=32, num_classes=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    options = {"widths": (4, 4, 8, 8, 8), **options}
    return models.build(
        f"fcn{stride}s", num_classes=num_classes, backbone="small", rng=rng, **options
    )


def images(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def snapshot(net):
    return {name: array.copy() for name, array in net.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


# From classifier to convolution


@every_classifier
def test_on_its_training_size_a_convolution_equals_its_classifier(name):
    net, side = classifier(name), SIZES[name]
    heat = models.convolutionalize(net)
    x = images(2, 3, side, side)
    expected, found = net(x).numpy(), heat(x).numpy()
    assert found.shape == (2, 5, 1, 1)
    np.testing.assert_allclose(found[:, :, 0, 0], expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert np.ptp(expected) > 1e-3  # else this shows nothing


@every_classifier
def test_a_convolution_has_the_classifiers_numbers_and_names(name):
    net = classifier(name)
    heat = models.convolutionalize(net)
    assert type(heat) is nn.Sequential
    assert [n for n, _ in heat.named_children()] == [n for n in net.chain() if n != "flatten"]
    for (n, there), (m, here) in zip(net.named_parameters(), heat.named_parameters(), strict=True):
        assert n == m
        np.testing.assert_array_equal(here.data.reshape(there.shape), there.data)


def test_the_first_fully_connected_layer_gets_the_maps_size_as_its_kernel():
    for side, kernel in ((64, 2), (96, 3), (128, 4)):
        heat = models.convolutionalize(classifier("vgg16", image_size=side))
        kernels = [heat[name].kernel_size for name in ("fc6", "fc7", "fc8")]
        assert kernels == [(kernel, kernel), (1, 1), (1, 1)]
        assert heat.fc6.weight.shape == (256, 32, kernel, kernel)


def test_rows_of_weights_are_channel_row_column():
    layers = {"flatten": nn.Flatten(), "fc6": nn.Linear(2 * 3 * 3, 1, bias=False)}
    net = models.Classifier(layers, "numbers", 1, image_size=3)
    net.fc6.weight.data[0] = np.arange(18)
    heat = models.convolutionalize(net)
    np.testing.assert_array_equal(heat.fc6.weight.data[0], np.arange(18).reshape(2, 3, 3))
    assert heat.fc6.bias is None


def test_weights_lie_in_memory_as_those_of_other_convolutions():
    heat = models.convolutionalize(classifier("vgg16"))
    # (O, C, h, w) -> (h, w, C, O)
    assert heat.fc6.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    assert heat.conv1_1.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous


@every_classifier
def test_the_two_nets_share_nothing(name):
    net = classifier(name)
    heat = models.convolutionalize(net)
    before = snapshot(net)
    for parameter in heat.parameters():
        parameter.data[...] = 7
    assert same(snapshot(net), before)


def unpadded(rng, image_size=23):
    """A classifier none of whose layers is padded: 23 -> 21 -> 10 -> 8 -> 4 pixels, stride 4."""
    layers = {
        "conv1": nn.Conv2d(3, 6, 3, rng=rng),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 8, 3, rng=rng),
        "norm2": nn.LocalResponseNorm(5),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2, ceil_mode=True),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(8 * 4 * 4, 12, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5, rng=rng),
        "fc7": nn.Linear(12, 5, rng=rng),
    }
    return shaken(models.Classifier(layers, "unpadded", 5, image_size), rng).eval()


def test_a_heat_map_is_the_classifier_patch_by_patch(rng):
    net = unpadded(rng, image_size=22)  # 22 -> 20 -> 10 -> 8 -> 4
    x = images(1, 3, 22 + 4 * 3, 22 + 4 * 5)
    heat = models.convolutionalize(net)(x).numpy()
    assert heat.shape == (1, 5, 4, 6)
    patches = [
        x.data[:, :, 4 * i : 4 * i + 22, 4 * j : 4 * j + 22] for i in range(4) for j in range(6)
    ]
    expected = net(Tensor(np.concatenate(patches))).numpy()  # (24, 5)
    np.testing.assert_allclose(heat[0].reshape(5, 24).T, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the patches are told apart


@every_classifier
def test_a_padded_nets_heat_map_moves_with_the_image(name):
    """With padding patches see zeros where the heat map sees the image, so they differ.

    What holds: away from the edge the heat map depends on what there is to be seen only.
    """
    heat = models.convolutionalize(classifier(name))
    side = SIZES[name]
    field = models.receptive_field_of(heat)
    layers = list(heat)
    step = int(models.coordinate_map(layers).scale)
    assert step == 32
    large = side + step * 2 * (1 + field // step)
    x = images(1, 3, large, large)
    whole = heat(x).numpy()
    moved = heat(Tensor(x.data[:, :, step:, step:])).numpy()
    middle = whole.shape[2] // 2
    scale = np.abs(whole).max()
    np.testing.assert_allclose(
        whole[0, :, middle, middle], moved[0, :, middle - 1, middle - 1], rtol=0, atol=1e-5 * scale
    )
    # At the edge it does differ: this is no accident of a constant map.
    assert np.abs(whole[0, :, 1, 1] - moved[0, :, 0, 0]).max() > 1e-3 * scale


def test_googlenets_pooling_moves_on_by_one_pixel():
    heat = models.convolutionalize(classifier("googlenet", image_size=96))
    pool = heat["pool5_7x7_s1"]
    assert (pool.kernel_size, pool.stride) == ((3, 3), (1, 1))
    assert heat(images(1, 3, 96, 160)).shape == (1, 5, 1, 3)


def test_auxiliary_heads_are_left_out():
    net = classifier("googlenet", auxiliary=True)
    heat = models.convolutionalize(net.train())
    assert not [name for name, _ in heat.named_parameters() if name.startswith(("loss1", "loss2"))]
    assert heat(images(1, 3, 64, 64)).shape == (1, 5, 1, 1)  # one answer, in training too


def test_dropout_stays_and_the_mode_too():
    net = classifier("vgg16", dropout=0.25)
    for training in (True, False):
        heat = models.convolutionalize(net.train(training))
        assert heat.drop6.p == 0.25
        assert {module.training for _, module in heat.named_modules()} == {training}


def test_maps_that_do_not_fit_are_refused():
    layers = {"pool": nn.MaxPool2d(2), "flatten": nn.Flatten(), "fc": nn.Linear(3 * 4 * 4, 2)}
    right = models.Classifier(dict(layers), "x", 2, image_size=8)
    assert models.convolutionalize(right).fc.kernel_size == (4, 4)
    wrong = models.Classifier(dict(layers), "x", 2, image_size=10)
    with pytest.raises(SurgeryError, match=r"fc: its 48 inputs .* 5 x 5 pixels.*image_size"):
        models.convolutionalize(wrong)


# From net to net


@every_classifier
def test_a_classifier_is_cast_into_an_fcn(name):
    source = classifier(name, auxiliary=True) if name == "googlenet" else classifier(name)
    net = models.fcn32s(3, rng=np.random.default_rng(9), **models.trunk_options(source.config))
    report = transplant(net, source)
    here, there = net.state_dict(), source.state_dict()
    trunk = [n for n in here if not surgery.is_score(n)]
    last = "loss3_classifier" if name.startswith("googlenet") else "fc8"
    assert set(report.names("copied") + report.names("reshaped")) == set(trunk)
    assert report.names("reshaped") == (
        [] if name.startswith("googlenet") else ["fc6.weight", "fc7.weight"]
    )
    assert report.names("new") == ["score_fr.weight", "score_fr.bias", "upscore.weight"]
    dropped = report.names("dropped")
    assert {n.split(".")[0] for n in dropped} == (
        {"loss1", "loss2", last} if name == "googlenet" else {last}
    )
    for n in trunk:
        np.testing.assert_array_equal(here[n].reshape(there[n].shape), there[n])
    assert not here["score_fr.weight"].any()


def test_the_report_names_every_parameter_of_both_nets():
    source = classifier("vgg16")
    net = models.fcn8s(3, **models.trunk_options(source.config))
    report = transplant(net, source)
    used = {line.name for line in report.lines if line.what in ("copied", "reshaped")}
    assert [line.name for line in report.lines if line.what != "dropped"] == list(net.state_dict())
    assert used | set(report.names("dropped")) == set(source.state_dict())
    assert report.counts() == {"copied": 28, "reshaped": 2, "new": 9, "dropped": 2}


def test_the_report_is_a_table():
    source = classifier("vgg16")
    net = models.fcn32s(3, **models.trunk_options(source.config))
    lines = str(transplant(net, source)).splitlines()
    assert lines[0].split(maxsplit=2) == ["conv1_1.weight", "copied", "(8, 3, 3, 3)"]
    rest = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert rest["fc6.weight"] == ["reshaped", "(256, 128) -> (256, 32, 2, 2)"]
    assert rest["score_fr.weight"] == ["new", "(3, 256, 1, 1), zeros"]
    assert rest["upscore.weight"] == ["new", "(3, 3, 64, 64), as it was"]
    assert rest["fc8.weight"] == ["dropped", "(5, 256)"]
    assert lines[-1] == "28 copied, 2 reshaped, 3 new, 2 dropped"


def test_a_stage_starts_where_its_parent_stopped():
    parent, net = shaken(small(32), np.random.default_rng(1)), small(16, seed=2)
    report = transplant(net, parent)
    assert set(report.names("new")) == {
        "upscore2.weight", "score_pool4.weight", "score_pool4.bias", "upscore16.weight"
    }  # fmt: skip
    assert report.names("dropped") == ["upscore.weight"]
    here, there = net.state_dict(), parent.state_dict()
    assert all(np.array_equal(here[name], there[name]) for name in report.names("copied"))


def test_the_source_may_be_a_mapping_and_is_not_changed():
    source = snapshot(shaken(small(), np.random.default_rng(1)))
    before = {name: array.copy() for name, array in source.items()}
    net = small(seed=3)
    parameter = net.fc6.weight
    transplant(net, source)
    assert net.fc6.weight is parameter  # an optimiser may hold it
    assert same(snapshot(net), source)
    net.fc6.weight.data[...] = 0
    assert same(source, before)


def test_the_place_in_memory_stays():
    source = classifier("vgg16")
    net = models.fcn32s(3, **models.trunk_options(source.config))
    transplant(net, source)
    assert net.fc6.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous


def refused(net, source, **options):
    before = snapshot(net)
    with pytest.raises(SurgeryError) as caught:
        transplant(net, source, **options)
    assert same(snapshot(net), before)  # nothing was changed
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fc7.bias", (4,)),  # would have been repeated twice
        ("fc7.bias", (16,)),  # would have been cut off
        ("fc7.bias", (8, 1)),
        ("fc7.weight", (8, 8)),  # as a fully connected layer: fits, see below
        ("fc7.weight", (8, 1, 8, 1)),  # as many numbers
        ("fc6.weight", (8, 3, 3, 8)),
        ("fc6.weight", (72, 8)),  # transposed: as many numbers
        ("fc6.weight", (8 * 8 * 9,)),
        ("conv1_1.weight", (4, 4, 4, 3)),
        ("conv2_1.weight", (4, 4, 5, 5)),
    ],
)
def test_sizes_that_differ_are_refused_with_both_shapes(name, shape):
    source, net = snapshot(small(seed=1)), small()
    source[name] = np.ones(shape, np.float32)
    if (name, shape) == ("fc7.weight", (8, 8)):
        assert transplant(net, source).names("reshaped") == ["fc7.weight"]
        return
    message = refused(net, source)
    assert f"{name} is {net.state_dict()[name].shape} here, {shape} in the source" in message
    assert "nothing was changed" in message


def test_all_that_does_not_fit_is_listed_but_not_without_end():
    message = refused(small(), small(widths=(5, 5, 9, 9, 9)))
    assert len(message.splitlines()) == 1 + surgery.LISTED + 1
    assert "conv1_1.weight is (4, 3, 4, 4) here, (5, 3, 4, 4) in the source" in message
    assert message.splitlines()[-1].strip() == "... and 9 more"


def test_element_types_are_not_converted():
    source = {name: array.astype(np.float64) for name, array in snapshot(small()).items()}
    assert "conv1_1.weight is float32 here, float64 in the source" in refused(small(), source)


def test_a_net_with_nothing_in_common_is_refused():
    message = refused(small(), {"other": np.ones(3, np.float32)})
    assert "none of the source's parameters fits this net: it has conv1_1.weight" in message
    assert "the source has other" in message
    assert "the source has none" in refused(small(), {})


@pytest.mark.parametrize("source", [None, [1, 2], {"fc6.weight": [1.0]}])
def test_a_source_that_is_none_is_refused(source):
    assert "give a net, or a mapping of names to arrays" in refused(small(), source)


# Other classes


def test_scores_of_other_classes_are_refused_unless_new_ones_are_asked_for():
    source, net = shaken(small(16, 7), np.random.default_rng(1)), small(16, 4)
    message = refused(net, source)
    assert "score_fr.weight is (4, 8, 1, 1) here, (7, 8, 1, 1) in the source" in message
    assert "other numbers of classes" in message
    assert "new_scores=True" in message
    before = snapshot(net)
    report = transplant(net, source, new_scores=True)
    scores = [name for name in before if surgery.is_score(name)]
    assert len(scores) == 6
    assert report.names("new") == scores
    assert report.names("dropped") == scores
    after = net.state_dict()
    assert all(np.array_equal(after[name], before[name]) for name in scores)
    np.testing.assert_array_equal(after["fc7.bias"], source.state_dict()["fc7.bias"])


def test_new_scores_are_new_even_for_as_many_classes():
    source, net = shaken(small(), np.random.default_rng(1)), small()
    transplant(net, source, new_scores=True)
    assert not net.score_fr.weight.data.any()


# More input channels


def test_the_new_input_channel_is_the_mean_of_the_old_ones():
    source = classifier("vgg16")
    options = models.trunk_options(source.config)
    net = models.fcn32s(3, in_channels=4, **options)
    report = transplant(net, source, widen_input=True)
    assert report.names("widened") == ["conv1_1.weight"]
    wide, narrow = net.conv1_1.weight.data, source.conv1_1.weight.data
    np.testing.assert_array_equal(wide[:, :3], narrow)
    np.testing.assert_allclose(wide[:, 3], narrow.mean(axis=1), rtol=0, atol=1e-7)
    line = next(line for line in report.lines if line.what == "widened")
    assert line.detail == "(8, 3, 3, 3) -> (8, 4, 3, 3)"


def test_more_input_channels_are_refused_unless_asked_for():
    source = classifier("vgg16")
    net = models.fcn32s(3, in_channels=4, **models.trunk_options(source.config))
    message = refused(net, source)
    assert "conv1_1.weight is (8, 4, 3, 3) here, (8, 3, 3, 3) in the source" in message
    assert "widen_input=True" in message


def test_only_the_first_convolution_is_widened():
    source, net = snapshot(small()), small(seed=1)
    source["conv2_1.weight"] = source["conv2_1.weight"][:, :3].copy()
    assert "conv2_1.weight is (4, 4, 3, 3)" in refused(net, source, widen_input=True)


def test_fewer_input_channels_are_refused():
    source, net = snapshot(small()), small(seed=1)
    source["conv1_1.weight"] = np.ones((4, 4, 4, 4), np.float32)
    assert "conv1_1.weight is (4, 3, 4, 4)" in refused(net, source, widen_input=True)


# More classes


@pytest.mark.parametrize("stride", [32, 8])
def test_the_first_classes_keep_their_scores(stride, rng):
    source = shaken(small(stride, 3, learn_upsampling="intermediate"), rng).eval()
    net = small(stride, 5, seed=4).eval()
    transplant(net, source, new_scores=True)
    net.score_fr.weight.data[...] = 9  # of an earlier attempt, say
    report = expand_score(net, source)
    assert set(report.names("expanded")) == {n for n in net.state_dict() if surgery.is_score(n)}
    x = images(1, 3, 40, 50)
    expected, found = source(x).numpy(), net(x).numpy()
    np.testing.assert_allclose(found[:, :3], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not found[:, 3:].any()
    assert np.ptp(expected) > 1e-3


def test_expanding_touches_scores_only():
    source, net = shaken(small(32, 3), np.random.default_rng(1)), small(8, 5)
    before = snapshot(net)
    report = expand_score(net, source)
    changed = [n for n, array in net.state_dict().items() if not np.array_equal(array, before[n])]
    assert changed == ["score_fr.weight", "score_fr.bias"]
    new = {line.name: line.detail for line in report.lines if line.what == "new"}
    assert list(new) == [n for n in before if surgery.is_score(n) and "score_fr" not in n]
    assert report.names("dropped") == ["upscore.weight"]


def test_as_many_classes_are_copied():
    source, net = shaken(small(), np.random.default_rng(1)), small()
    assert expand_score(net, source).counts() == {"copied": 3}
    np.testing.assert_array_equal(net.score_fr.weight.data, source.score_fr.weight.data)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"score_fr.weight": (6, 8, 1, 1)}, "score_fr.weight is float32 (5, 8, 1, 1) here"),
        ({"score_fr.bias": (6,)}, "score_fr.bias is float32 (5,) here, float32 (6,) in the source"),
        ({"score_fr.weight": (3, 7, 1, 1)}, "float32 (3, 7, 1, 1) in the source"),
        ({"score_fr.weight": (3, 8)}, "float32 (3, 8) in the source"),
        ({"upscore.weight": (3, 3, 32, 32)}, "float32 (3, 3, 32, 32) in the source"),
        ({"upscore.weight": (3, 2, 64, 64)}, "float32 (3, 2, 64, 64) in the source"),
    ],
)
def test_scores_that_cannot_be_expanded_are_refused(change, part):
    net, source = small(32, 5), snapshot(small(32, 3))
    source |= {name: np.ones(shape, np.float32) for name, shape in change.items()}
    before = snapshot(net)
    with pytest.raises(SurgeryError, match="as many classes or more") as caught:
        expand_score(net, source)
    assert part in str(caught.value)
    assert same(snapshot(net), before)


def test_scores_of_another_type_are_refused():
    source = {n: array.astype(np.float64) for n, array in snapshot(small(32, 3)).items()}
    with pytest.raises(SurgeryError, match=r"float32 \(5, .* float64 \(3, "):
        expand_score(small(32, 5), source)


def test_expanding_without_a_common_score_layer_is_refused():
    with pytest.raises(SurgeryError, match=r"no score layer is in both nets.*source has none"):
        expand_score(small(), classifier("vgg16"))


# Nets that were never loaded


def test_an_all_zero_layer_of_the_trunk_is_refused_by_name():
    net = small()
    check_loaded(net)  # the scores are zero, as they should be
    net.fc6.weight.data[...] = 0
    with pytest.raises(SurgeryError, match=r"all weights of fc6 are zero.*load trained weights"):
        check_loaded(net)
    for parameter in net.parameters():
        parameter.data[...] = 0
    with pytest.raises(SurgeryError, match=r"conv1_1, conv2_1, conv3_1, \.\.\. are zero"):
        check_loaded(net)


@every_classifier
def test_new_classifiers_pass(name):
    check_loaded(models.build(name, num_classes=5, width=0.0625, image_size=SIZES[name]))


def test_scores_are_told_by_the_layers_own_name():
    names = {
        "score_fr.weight": True,
        "colour.score_pool4.bias": True,
        "upscore_pool4.weight": True,
        "score_fr_geo.weight": True,
        "fc7.weight": False,
        "loss3_classifier.weight": False,
        "inception_3a.3x3.weight": False,
        "scores.fc.weight": False,
        "weight": False,
    }
    assert {name: surgery.is_score(name) for name in names} == names
