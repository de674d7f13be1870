"""NYUDv2 as it lies on disk: its inputs, splits and labels, and what can be wrong with them."""

import pickle

import numpy as np
import pytest
from layouts_nyud import NYUD, make_nyud, save_mat, save_png
from PIL import Image

from minifcn import data
from minifcn.data import DataError, nyud
from minifcn.data.nyud import NYUD_PUBLISHED, nyud_splits
from minifcn.data.sources import open_dataset, splits_of

INPUTS = ["color", "depth", "hha", "rgbd", "color+hha"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder that no test changes."""
    root = tmp_path_factory.mktemp("data") / "NYU räume"
    make_nyud(root)
    return root


@pytest.fixture
def own(tmp_path):
    """Return a folder for a test to change."""
    make_nyud(tmp_path)
    return tmp_path


def pixels(file):
    return np.asarray(Image.open(file))


def labels_of(root, number):
    import scipy.io

    return scipy.io.loadmat(root / f"segmentation/img_{number}.mat")["segmentation"]


# --- what is read


def test_classes():
    assert len(data.NYUD_CLASSES) == len(set(data.NYUD_CLASSES)) == 40
    assert data.NYUD_CLASSES[0] == "wall"
    assert data.NYUD_CLASSES[19] == "floor mat"
    assert data.NYUD_CLASSES[23] == "refridgerator"
    assert data.NYUD_CLASSES[39] == "otherprop"


def test_a_specification_opens_it(whole):
    spec = f"nyud:{whole}"
    assert [sample.name for sample in open_dataset(spec, "val")] == list(NYUD["val"])
    assert open_dataset(f"{spec}?split=test&input=color+hha").streams == {"color": 3, "hha": 3}
    assert splits_of(f"{spec}?input=depth") == ["train", "val", "trainval", "test"]


@pytest.mark.parametrize("name", INPUTS)
def test_labels_start_at_0_and_void_is_ignored(whole, name):
    dataset = nyud(whole, "train", name)
    for sample in dataset:
        stored = labels_of(whole, sample.name)
        assert sample.label.dtype == np.uint8
        np.testing.assert_array_equal(sample.label == 255, stored == 0)
        np.testing.assert_array_equal(sample.label[stored > 0], stored[stored > 0] - 1)
    assert dataset.classes == data.NYUD_CLASSES
    assert dataset.palette.shape == (40, 3)


def test_colour(whole):
    image = nyud(whole, "train")[1].image
    np.testing.assert_array_equal(image, pixels(whole / "data/images/img_5004.png"))


def test_depth_is_the_logarithm_of_millimetres(whole):
    dataset = nyud(whole, "train", "depth")
    image = dataset[1].image
    assert image.dtype == np.float32
    assert image.shape == (48, 64, 1)
    stored = pixels(whole / "data/depth/img_5004.png")
    assert stored.max() > 5000  # 16 bits have not become 8
    np.testing.assert_allclose(np.exp(image[:, :, 0]), stored, rtol=1e-5)


def test_hha_keeps_its_channels(whole):
    image = nyud(whole, "train", "hha")[1].image
    np.testing.assert_array_equal(image, pixels(whole / "data/hha/img_5004.png"))


def test_fusions_have_both_side_by_side(whole):
    color, depth, hha = (nyud(whole, "val", name)[2].image for name in ("color", "depth", "hha"))
    early, late = nyud(whole, "val", "rgbd"), nyud(whole, "val", "color+hha")
    assert data.streams_of(early) == {"": 4}
    assert data.streams_of(late) == {"color": 3, "hha": 3}
    assert early[2].image.dtype == np.float32
    assert late[2].image.dtype == np.uint8
    np.testing.assert_array_equal(early[2].image, np.concatenate([color, depth], axis=2))
    np.testing.assert_array_equal(late[2].image, np.concatenate([color, hha], axis=2))


@pytest.mark.parametrize("name", INPUTS)
def test_it_can_be_sent_to_another_process(whole, name):
    dataset = nyud(whole, "val", name)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[0].image, dataset[0].image)
    assert again.name == dataset.name


def test_names_tell_the_inputs_apart(whole):
    assert [nyud(whole, "val", name).name for name in INPUTS] == [
        "NYUDv2 val",
        *(f"NYUDv2 val {name}" for name in INPUTS[1:]),
    ]


# --- how it is prepared


def prepared(whole, name, preset):
    dataset = nyud(whole, "train", name)
    sample = dataset[0]
    return sample.image.astype(np.float64), data.presets_of(dataset)[preset](sample.image)


COLOR, HHA = [116.190, 97.203, 92.318], [132.431, 94.076, 118.477]


@pytest.mark.parametrize(
    ("name", "mean", "order"),
    [
        ("color", COLOR, [2, 1, 0]),
        ("depth", [7.844], [0]),
        ("hha", HHA, [0, 1, 2]),
        ("rgbd", [*COLOR, 7.844], [2, 1, 0, 3]),
        ("color+hha", [*COLOR, *HHA], [2, 1, 0, 3, 4, 5]),
    ],
)
def test_published_preparation_is_that_of_the_released_nets(whole, name, mean, order):
    image, x = prepared(whole, name, "published")
    expected = image[:, :, order] - mean
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", INPUTS)
def test_unit_preparation_is_fit_for_new_nets(whole, name):
    _, x = prepared(whole, name, "unit")
    assert x.dtype == np.float32
    for channel in x:
        assert -2.1 < channel.min() < -0.4
        assert 0.4 < channel.max() < 2.1


def test_presets_for_three_channels_are_offered_for_three_only(whole):
    names = {name: set(data.presets_of(nyud(whole, "val", name))) for name in INPUTS}
    assert {"caffe", "landcover", "unit", "published"} <= names["color"]
    assert names["depth"] == names["rgbd"] == names["color+hha"] == {"unit", "published"}


# --- splits


def test_published_sizes():
    assert NYUD_PUBLISHED == {"train": 381, "val": 414, "trainval": 795, "test": 654}


def test_trainval_is_made_of_train_and_val(own):
    both = [*NYUD["train"], *NYUD["val"]]
    assert [sample.name for sample in nyud(own, "trainval")] == both
    (own / "trainval.txt").write_text("5003\r\n5010\r\n\r\n", newline="")
    assert [sample.name for sample in nyud(own, "trainval")] == ["5003", "5010"]
    (own / "trainval.txt").unlink()
    (own / "val.txt").unlink()
    assert nyud_splits(own) == ["train", "test"]
    with pytest.raises(DataError, match=r"unknown split 'trainval': .* known are test, train"):
        nyud(own, "trainval")


def test_a_list_of_ones_own(own):
    (own / "kitchens.txt").write_text("5003\n")
    assert len(nyud(own, "kitchens")) == 1
    assert "kitchens" not in nyud_splits(own)


@pytest.mark.parametrize(
    ("split", "other"), [("train", "val"), ("trainval", "val"), ("trainval", "test")]
)
def test_splits_that_overlap(own, split, other):
    with (own / f"{other}.txt").open("a") as file:
        file.write("5004\n")
    for name in (split, other):
        with pytest.raises(DataError, match=r"share 1 image, '5004' first"):
            nyud(own, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the split is empty"),
        ("5003\n5003\n", "'5003' is listed twice"),
        ("images/5003\n", "'images/5003' is a path"),
        ("img_5003\n", r"img_img_5003.png: no such image file, for 'img_5003' of NYUDv2 train"),
        (
            "5003\n9999\n",
            r"img_9999.png: no such image file, .* \(2 files of 2 samples are missing",
        ),
    ],
)
def test_lists_that_are_wrong(own, text, message):
    (own / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        nyud(own, "train")


# --- what can be wrong


def test_missing_folders(own, tmp_path):
    for call in (nyud_splits, lambda path: nyud(path, "train")):
        with pytest.raises(DataError, match=r"none is not a folder; expected is:") as caught:
            call(tmp_path / "none")
        assert f"{tmp_path}/none/\n" in str(caught.value)
        assert "segmentation/img_5003.mat" in str(caught.value)
        assert "NYU Depth V2 is published by" in str(caught.value)
    (own / "data/hha").rename(own / "data/HHA2")
    with pytest.raises(DataError, match="has no data/hha; expected"):
        nyud(own, "train", "color+hha")
    assert len(nyud(own, "train", "rgbd")) == 3  # which needs none
    (own / "segmentation").rename(own / "labels")
    for call in (nyud_splits, lambda path: nyud(path, "train")):
        with pytest.raises(DataError, match="has no segmentation; expected"):
            call(own)


def test_unknown_input(whole):
    message = r"unknown input 'rgb': choose one of color, depth, hha, rgbd, color\+hha"
    with pytest.raises(DataError, match=message):
        nyud(whole, "train", "rgb")


def test_missing_files(own):
    (own / "segmentation/img_5004.mat").unlink()
    with pytest.raises(DataError, match=r"img_5004.mat: no such label file, for '5004'"):
        nyud(own, "train")
    (own / "data/depth/img_5010.png").unlink()
    with pytest.raises(DataError, match=r"depth/img_5010.png: no such image file, for '5010'"):
        nyud(own, "val", "rgbd")
    assert len(nyud(own, "val", "color+hha")) == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_label_values_that_are_no_class(own, dtype):
    """Minus 1, 41 would be 40 in a file where there is none; the file's number is named."""
    labels = labels_of(own, "5003").astype(dtype)
    labels[5, 7:9] = 41
    save_mat(own / "segmentation/img_5003.mat", segmentation=labels)
    message = (
        r"img_5003.mat: label value 41 at row 5, column 7 \(2 such pixels\): the values must be "
        "1 to 40 for the 40 classes, or 0 for pixels without a label"
    )
    with pytest.raises(DataError, match=message):
        nyud(own, "train")[0]


@pytest.mark.parametrize("value", [-1, 255, 256, 300])
def test_label_values_that_uint8_would_turn_into_others(own, value):
    labels = labels_of(own, "5003").astype(np.int32)
    labels[0, 1] = value
    save_mat(own / "segmentation/img_5003.mat", segmentation=labels)
    with pytest.raises(DataError, match=f"label value {value} at row 0, column 1"):
        nyud(own, "train")[0]


def test_labels_of_another_variable_or_size(own):
    save_mat(own / "segmentation/img_5003.mat", labels=np.ones((48, 64), np.uint8))
    with pytest.raises(DataError, match="has no variable 'segmentation': it holds labels"):
        nyud(own, "train")[0]
    save_mat(own / "segmentation/img_5003.mat", segmentation=np.ones((64, 48), np.uint8))
    with pytest.raises(DataError, match=r"label is 64 x 48, its image img_5003.png is 48 x 64"):
        nyud(own, "train")[0]


def test_images_of_one_sample_that_differ_in_size(own):
    save_png(own / "data/depth/img_5003.png", np.full((48, 63), 900, np.uint16))
    with pytest.raises(DataError, match=r"depth/img_5003.png: image is 48 x 63, .* is 48 x 64"):
        nyud(own, "train", "rgbd")[0]


@pytest.mark.parametrize("name", ["depth", "rgbd"])
def test_depth_without_a_logarithm(own, name):
    depth = pixels(own / "data/depth/img_5003.png").copy()
    depth[3, 4:6] = 0
    save_png(own / "data/depth/img_5003.png", depth)
    message = r"img_5003.png: depth is 0 at row 3, column 4 \(2 such pixels\): .* above 0, in mm"
    with pytest.raises(DataError, match=message):
        nyud(own, "train", name)[0]
    assert nyud(own, "train")[0].image.shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("picture", "mode"),
    [(np.full((48, 64), 90, np.uint8), "L"), (np.full((48, 64, 3), 90, np.uint8), "RGB")],
)
def test_depth_that_is_not_16_bit_gray(own, picture, mode):
    save_png(own / "data/depth/img_5003.png", picture)
    with pytest.raises(DataError, match=f"image is of mode {mode}: it must be 16-bit gray"):
        nyud(own, "train", "depth")[0]


def test_depth_that_is_damaged(own):
    file = own / "data/depth/img_5003.png"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DataError, match=r"img_5003.png: image file is damaged or cut short"):
        nyud(own, "train", "depth")[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_depth_map_in_place_of_hha(own, dtype):
    save_png(own / "data/hha/img_5003.png", np.arange(48 * 64).reshape(48, 64).astype(dtype))
    with pytest.raises(DataError, match=r"img_5003.png: its three channels are equal"):
        nyud(own, "train", "color+hha")[0]


def test_a_linked_folder(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole, target_is_directory=True)
    assert len(nyud(tmp_path / "link", "test")) == 3
