"""PASCAL VOC, SBD and PASCAL-Context as they lie on disk, and what each mistake in them says."""

import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from layouts_voc import (
    CONTEXT,
    CONTEXT_NUMBERS,
    SBD,
    SEG11VALID,
    TRAINAUG,
    VOC,
    make_context,
    make_sbd,
    make_trainaug,
    make_voc,
    picture,
    write_list,
)
from PIL import Image

from minifcn import data
from minifcn.backend import Error
from minifcn.data.mat import check_map, read_mat
from minifcn.data.sources import SOURCES, parse, published_size


def folder_of(spec):
    return parse(spec).path


def names(dataset):
    return [item.name for item in dataset.items]


def refused(message, spec, split=None):
    """Open a data set and read all of it; expect an error that says ``message``."""
    with pytest.raises(data.DataError, match=message) as caught:
        list(data.open_dataset(spec, split))
    return str(caught.value)


# --- PASCAL VOC


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path)


@pytest.fixture
def both(tmp_path):
    """VOC2011 with SBD."""
    return make_trainaug(tmp_path, "VOC2011")


@pytest.fixture
def sbd(tmp_path):
    return make_sbd(tmp_path)


def lists_of(spec):
    return folder_of(spec) / "ImageSets" / "Segmentation"


def test_voc_samples(voc):
    dataset = data.open_dataset(voc, "train")
    assert names(dataset) == VOC["train"]
    assert dataset.name == "VOC2011 train"
    assert dataset.classes == data.VOC_CLASSES
    np.testing.assert_array_equal(dataset.palette, data.voc_palette(21))
    sizes = set()
    for image, label, name in dataset:
        truth = picture(name)[1]
        assert image.shape == (*truth.shape, 3)
        assert label.dtype == np.uint8
        assert 0 < (label == 255).mean() < 0.5
        np.testing.assert_array_equal(label[label != 255], truth[label != 255])
        sizes.add(label.shape)
    assert len(sizes) > 1


def test_borders_are_not_counted(voc):
    dataset = data.open_dataset(voc, "val")
    valid = sum(int((sample.label != 255).sum()) for sample in dataset)
    assert data.count_pixels(dataset).sum() == valid


def test_splits_on_disk(voc):
    assert data.splits_of(voc) == ["train", "trainval", "val"]
    assert names(data.open_dataset(voc, "trainval")) == sorted([*VOC["train"], *VOC["val"]])


def test_splits_made_of_lists(both, tmp_path):
    assert data.splits_of(both) == ["seg11valid", "train", "trainaug", "trainval", "val"]
    twelve = make_trainaug(tmp_path / "twelve")
    assert data.splits_of(twelve) == ["train", "trainaug", "trainval", "val"]


def test_seg11valid_is_val_without_sbd_train(both):
    assert names(data.open_dataset(both, "seg11valid")) == SEG11VALID


def test_trainaug_is_the_union_without_val(both):
    dataset = data.open_dataset(both, "trainaug")
    assert names(dataset) == TRAINAUG
    assert not set(names(dataset)) & set(VOC["val"])
    for _, label, name in dataset:
        own = name in VOC["train"]  # with VOC's labels, which alone have ignored borders
        assert (255 in label) == own
        np.testing.assert_array_equal(label[label != 255], picture(name)[1][label != 255])


def test_trainaug_of_png_files(tmp_path, both):
    voc_root, sbd_root = folder_of(both), folder_of(make_sbd(tmp_path))
    dataset = data.open_dataset(both, "trainaug")
    for image, (_, label, name) in zip(dataset.items, dataset, strict=True):
        data.save_label(mkdir(voc_root / "SegmentationClassAug") / f"{name}.png", label, np.eye(3))
        if image.images[0].is_relative_to(sbd_root):
            shutil.copy(image.images[0], voc_root / "JPEGImages")
    write_list(lists_of(both) / "trainaug.txt", TRAINAUG)
    spec = f"voc:{voc_root}?labels=SegmentationClassAug"
    assert "trainaug" in data.splits_of(spec)
    for ours, theirs in zip(data.open_dataset(spec, "trainaug"), dataset, strict=True):
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.image, theirs.image)
    # The list alone is no split: the labels of most of its images are elsewhere.
    assert "trainaug" not in data.splits_of(f"voc:{voc_root}")
    refused(r"'trainaug' needs SBD's labels: add \?sbd=PATH", f"voc:{voc_root}", "trainaug")
    # A list with an image of val would train on held-out images.
    write_list(lists_of(both) / "trainaug.txt", [*TRAINAUG, VOC["val"][0]])
    refused("share 1 image, '2007_000033' first", spec, "trainaug")


def mkdir(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_seg11valid_from_its_list(both):
    write_list(lists_of(both) / "seg11valid.txt", SEG11VALID[:2])
    alone = f"voc:{folder_of(both)}"
    assert "seg11valid" in data.splits_of(alone)
    assert names(data.open_dataset(alone, "seg11valid")) == SEG11VALID[:2]
    assert names(data.open_dataset(both, "seg11valid")) == SEG11VALID[:2]


def test_seg11valid_with_trained_images_is_refused(both):
    write_list(lists_of(both) / "seg11valid.txt", [*SEG11VALID, "2010_000003"])
    refused(
        r"seg11valid\.txt and the train\.txt of SBD share 1 image, '2010_000003' first",
        both,
        "seg11valid",
    )


def test_seg11valid_needs_sbd(voc):
    message = refused(r"add \?sbd=PATH of benchmark_RELEASE/dataset", voc, "seg11valid")
    assert "seg11valid.txt" in message


def test_seg11valid_of_another_year_is_refused(tmp_path):
    message = refused(
        "made of the val.txt of VOC2011, and this is VOC2012", make_trainaug(tmp_path), "seg11valid"
    )
    assert "seg11valid.txt" in message


def test_devkit_with_one_year(voc):
    devkit = folder_of(voc).parent
    assert data.open_dataset(f"voc:{devkit}", "val").name == "VOC2011 val"


def test_devkit_with_two_years(voc, tmp_path):
    make_voc(tmp_path, "VOC2012")
    devkit = folder_of(voc).parent
    refused(r"holds VOC2011, VOC2012: name one of them: .*VOC2012", f"voc:{devkit}", "val")


def test_devkit_without_a_year(tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    message = refused("VOCdevkit has no ImageSets/Segmentation", f"voc:{tmp_path}/VOCdevkit", "val")
    for part in ("JPEGImages/NAME.jpg", "SegmentationClass/NAME.png", "host.robots.ox.ac.uk"):
        assert part in message


def test_missing_folder(tmp_path):
    refused("none is not a folder; PASCAL VOC looks like this", f"voc:{tmp_path}/none", "val")


def test_windows_line_ends_and_byte_order_mark(voc):
    text = "\ufeff" + "\r\n".join(VOC["val"]) + "\r\n\r\n"
    (lists_of(voc) / "val.txt").write_text(text, encoding="utf-8", newline="")
    assert names(data.open_dataset(voc, "val")) == VOC["val"]


def test_spaces_and_other_letters(tmp_path):
    root = folder_of(make_voc(tmp_path / "mes données"))
    for part, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / part / f"2007_000033.{ending}").rename(root / part / f"2007 Straße.{ending}")
    write_list(root / "ImageSets" / "Segmentation" / "val.txt", ["2007 Straße"])
    (sample,) = data.open_dataset(f"voc:{root}", "val")
    assert sample.name == "2007 Straße"


def test_linked_folder(voc, tmp_path):
    link = tmp_path / "my link"
    link.symlink_to(folder_of(voc), target_is_directory=True)
    dataset = data.open_dataset(f"voc:{link}", "val")
    assert len(list(dataset)) == 4
    assert dataset.name == "VOC2011 val"  # the year that it is, whatever the link is called


def test_it_can_be_pickled(both):
    for split in ("val", "trainaug"):
        dataset = data.open_dataset(both, split)
        copy = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(copy[1].label, dataset[1].label)


def test_missing_image(voc):
    (folder_of(voc) / "JPEGImages" / "2010_000003.jpg").unlink()
    refused(r"2010_000003\.jpg: no such image file, .* \(1 files of 4 samples", voc, "val")


def test_missing_label(voc):
    (folder_of(voc) / "SegmentationClass" / "2010_000003.png").unlink()
    refused(r"2010_000003\.png: no such label file, for '2010_000003' of VOC2011 val", voc, "val")


def test_labels_of_the_test_images(voc):
    """They have a list and images, but no labels; those of 2007 have."""
    write_list(lists_of(voc) / "test.txt", ["2008_000099"])
    refused("labels of the test images are not published", voc, "test")
    assert "test" not in data.splits_of(voc)
    write_list(lists_of(voc) / "test.txt", VOC["val"])
    assert "test" in data.splits_of(voc)
    assert len(data.open_dataset(voc, "test")) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"val\.txt: the split is empty"),
        (["2007_000033", "2007_000033"], r"val\.txt: '2007_000033' is listed twice"),
        (["2007_000033", "2007_000032"], r"train\.txt and val\.txt share 1 image, '2007_000032'"),
        (["/JPEGImages/2007_000033.jpg /Aug/2007_000033.png"], r"val\.txt: .* is a path"),
    ],
)
def test_bad_list(voc, lines, message):
    write_list(lists_of(voc) / "val.txt", lines)
    refused(message, voc, "val")


def test_overlap_is_seen_in_training_too(voc):
    write_list(lists_of(voc) / "train.txt", [*VOC["train"], VOC["val"][0]])
    refused("share 1 image", voc, "train")


def test_overlap_of_sbd_is_seen_through_voc(both, sbd):
    write_list(folder_of(sbd) / "val.txt", [*SBD["val"], SBD["train"][0]])
    refused(r"train\.txt and val\.txt share 1 image, '2007_000032' first", both, "trainaug")


def test_hidden_files_are_no_splits(voc):
    """Some systems put one beside each file that they copy."""
    (lists_of(voc) / "._val.txt").write_bytes(b"\0\5\26\7")
    assert data.splits_of(voc) == ["train", "trainval", "val"]


def test_unknown_split(voc):
    refused("unknown split 'dev': there is no dev.txt; known are train, trainval, val", voc, "dev")


def test_label_in_colours(voc):
    file = folder_of(voc) / "SegmentationClass" / "2007_000033.png"
    Image.open(file).convert("RGB").save(file)
    refused(r"2007_000033\.png: image is of mode RGB \(colours are not numbers", voc, "val")


def test_class_out_of_range(voc):
    file = folder_of(voc) / "SegmentationClass" / "2007_000033.png"
    label = data.read_label(file)
    label[2, 5] = 21
    data.save_label(file, label, data.voc_palette(256))
    refused(r"2007_000033\.png: label value 21 at row 2, column 5 .* 0 to 20", voc, "val")


def test_label_of_another_size(voc):
    file = folder_of(voc) / "SegmentationClass" / "2007_000033.png"
    data.save_label(file, data.read_label(file)[:-1], data.voc_palette(256))
    refused(r"2007_000033\.png: label is \d+ x \d+, its image 2007_000033\.jpg is", voc, "val")


def test_labels_that_are_no_classes(voc):
    mkdir(folder_of(voc) / "SegmentationObject")
    refused("holds numbers of objects, not of classes", f"{voc}?labels=SegmentationObject", "val")
    refused("has no folder 'Labels' of labels", f"{voc}?labels=Labels", "val")


# --- SBD


def test_sbd_samples(sbd):
    dataset = data.open_dataset(sbd, "train")
    assert names(dataset) == SBD["train"]
    assert dataset.classes == data.VOC_CLASSES
    for image, label, name in dataset:
        np.testing.assert_array_equal(label, picture(name)[1])
        assert image.shape == (*label.shape, 3)
        assert label.dtype == np.uint8
    assert data.splits_of(sbd) == ["train", "val"]
    assert pickle.loads(pickle.dumps(dataset))[0].name == SBD["train"][0]


@pytest.mark.parametrize("above", [1, 2])
def test_sbd_is_found_below(sbd, above):
    assert len(data.open_dataset(f"sbd:{folder_of(sbd).parents[above - 1]}", "val")) == 3


def test_sbd_layout_is_shown(tmp_path):
    message = refused("has no img and cls; SBD looks like this", f"sbd:{tmp_path}", "val")
    assert "cls/NAME.mat" in message
    assert "Semantic Boundaries Dataset" in message


def test_converted_label_is_read_instead(sbd):
    file = folder_of(sbd) / "cls" / f"{SBD['val'][0]}.png"
    label = np.full_like(picture(SBD["val"][0])[1], 7)
    data.save_label(file, label, data.voc_palette(256))
    np.testing.assert_array_equal(data.open_dataset(sbd, "val")[0].label, label)


def test_sbd_overlap(sbd):
    write_list(folder_of(sbd) / "val.txt", [*SBD["val"], SBD["train"][0]])
    refused("share 1 image, '2007_000032' first", sbd, "train")


def test_missing_mat(sbd):
    (folder_of(sbd) / "cls" / "2008_000021.mat").unlink()
    refused(r"2008_000021\.mat: no such label file, for '2008_000021' of SBD train", sbd, "train")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GTinst": 1}, r"2008_000021\.mat: has no variable 'GTcls': it holds GTinst"),
        ({}, "has no variable 'GTcls': it holds none"),
        ({"GTcls": np.zeros((3, 3))}, "GTcls has no fields and shape"),
        (
            {"GTcls": np.zeros((1, 2), [("Segmentation", object)])},
            r"Segmentation and shape \(1, 2\)",
        ),
        ({"GTcls": {"Boundaries": 1}}, "GTcls has the fields Boundaries and shape"),
        (
            {"GTcls": {"Segmentation": "text"}},
            r"GTcls\.Segmentation: got <U4 of shape \(1,\): a label map must be whole numbers",
        ),
        ({"GTcls": {"Segmentation": np.full((4, 4), -1)}}, "Segmentation holds -1 to -1: class"),
        ({"GTcls": {"Segmentation": np.full((50, 50), 300)}}, "Segmentation holds 300 to 300"),
        ({"GTcls": {"Segmentation": np.zeros((2, 2))}}, "label is 2 x 2, its image"),
        ({"GTcls": {"Segmentation": np.zeros((0, 2))}}, "shape"),
    ],
)
def test_wrong_content_of_a_mat_file(sbd, variables, message):
    scipy.io.savemat(folder_of(sbd) / "cls" / "2008_000021.mat", variables)
    refused(message, sbd, "train")


def test_sbd_class_out_of_range(sbd):
    file = folder_of(sbd) / "cls" / "2008_000021.mat"
    label = picture("2008_000021")[1]
    label[1, 2] = 21
    scipy.io.savemat(file, {"GTcls": {"Segmentation": label}})
    refused(r"2008_000021\.mat: label value 21 at row 1, column 2", sbd, "train")


# --- PASCAL-Context


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def test_context_samples(context):
    dataset = data.open_dataset(context, "val")
    assert names(dataset) == CONTEXT["val"]
    assert len(dataset.classes) == 60
    assert dataset.classes[:3] == ("background", "aeroplane", "bicycle")
    assert data.splits_of(context) == ["train", "val"]
    for _, label, name in dataset:
        assert label.dtype == np.uint8
        truth = picture(name, classes=60)[1]
        np.testing.assert_array_equal(label[:-1], truth[:-1])
        # 397 is "table" in labels.txt, and 80 "cloth"; 459 is none of the classes.
        assert label[-1, :3].tolist() == [11, 28, 0]
        assert dataset.classes[11] == "diningtable"
        assert dataset.classes[28] == "clothes"
    assert pickle.loads(pickle.dumps(dataset))[2].name == CONTEXT["val"][2]


def test_context_without_background(context):
    whole = data.open_dataset(context, "val")
    dataset = data.open_dataset(f"{context}&background=ignore", "val")
    assert dataset.classes == whole.classes[1:]
    np.testing.assert_array_equal(dataset.palette, whole.palette[1:])
    for with_it, without in zip(whole, dataset, strict=True):
        np.testing.assert_array_equal(without.label, with_it.label - np.uint8(1))
        assert ((without.label == 255) == (with_it.label == 0)).all()
    refused("background is 'no': it must be 'class' or 'ignore'", f"{context}&background=no", "val")


def test_every_context_class_is_found_by_name(context, tmp_path):
    file = folder_of(context) / "trainval" / "2008_000009.mat"
    shape = picture("2008_000009")[1].shape
    numbers = np.resize(np.array(CONTEXT_NUMBERS, np.uint16), shape)
    scipy.io.savemat(file, {"LabelMap": numbers})
    label = data.open_dataset(context, "val")[0].label
    np.testing.assert_array_equal(label.ravel()[:59], np.arange(1, 60))


def test_context_needs_images_of_2010(context, tmp_path):
    place = folder_of(context)
    refused(r"has labels only: add \?voc=PATH", f"context:{place}", "val")
    images = tmp_path / "VOCdevkit" / "VOC2010"
    later = images.rename(images.with_name("VOC2012"))
    refused("the lists of VOC2012 are others", f"context:{place}?voc={later}", "val")


def test_context_layout_is_shown(tmp_path):
    message = refused(
        "has no labels.txt and no trainval; PASCAL-Context", f"context:{tmp_path}", "val"
    )
    assert "LabelMap" in message
    assert "VOCdevkit/VOC2010" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("9: bag\n", "", r"labels\.txt: 1 of the 59 classes are not among its 458 names: bag"),
        ("9: bag\n", "9 bag\n", r"'9 bag': each line must be a number and a name"),
        ("10: other thing 10\n", "9: ball\n", r"'9: ball': this number or name has come before"),
        ("10: other thing 10\n", "9: bag\n", r"'9: bag': this number or name has come before"),
        ("10: other thing 10\n", "10: b ag\n", r"'10: b ag': this number or name has come before"),
    ],
)
def test_bad_list_of_names(context, old, new, message):
    file = folder_of(context) / "labels.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    refused(message, context, "val")


def test_context_number_out_of_range(context):
    file = folder_of(context) / "trainval" / "2008_000009.mat"
    numbers = read_mat(file, "LabelMap")
    numbers[3, 4] = 460
    scipy.io.savemat(file, {"LabelMap": numbers})
    refused(r"LabelMap is 460 at row 3, column 4: it must be 0 to 459", context, "val")


def test_context_overlap(context, tmp_path):
    lists = tmp_path / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main"
    write_list(lists / "val.txt", [*CONTEXT["val"], CONTEXT["train"][0]])
    refused("share 1 image, '2008_000002' first", context, "train")


def test_context_missing_mat(context):
    (folder_of(context) / "trainval" / "2008_000009.mat").unlink()
    refused(r"2008_000009\.mat: no such label file", context, "val")


# --- all of them


def test_published_sizes(voc, sbd, context):
    sizes = {
        (kind, key): size
        for kind in ("voc", "sbd", "context")
        for key, size in SOURCES[kind].published.items()
    }
    assert sizes["sbd", "train"] + sizes["sbd", "val"] == 11355
    assert sizes["context", "train"] + sizes["context", "val"] == sizes["context", "trainval"]
    for year in ("VOC2011", "VOC2012"):
        parts = sizes["voc", f"{year} train"] + sizes["voc", f"{year} val"]
        assert parts == sizes["voc", f"{year} trainval"]
    assert published_size("voc", "val", data.open_dataset(voc, "val")) == 1111
    assert published_size("sbd", "train", data.open_dataset(sbd, "train")) == 8498
    assert published_size("context", "val", data.open_dataset(context, "val")) == 5105


@pytest.mark.parametrize("make", [make_voc, make_sbd, make_context])
def test_preset_of_the_published_nets(make, tmp_path):
    assert data.open_dataset(make(tmp_path), "val").presets["published"] == data.CAFFE


# --- MATLAB files


@pytest.fixture
def mat(tmp_path):
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"S": np.arange(6, dtype=np.uint16).reshape(2, 3), "names": "x"})
    return file


def test_variable_of_a_mat_file(mat):
    array = read_mat(mat, "S")
    assert array.dtype == np.uint16
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_names_of_variables_are_told(mat):
    with pytest.raises(data.DataError, match=r"a\.mat: has no variable 'T': it holds S, names"):
        read_mat(mat, "T")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"<html>moved</html>", "18 bytes"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600), r"version 7\.3 \(HDF5\)"),
        (b"\x89HDF\r\n\x1a\n".ljust(600), r"version 7\.3 \(HDF5\)"),
    ],
)
def test_no_mat_file(mat, content, message):
    mat.write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        read_mat(mat, "S")


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_file_cut_short(tmp_path, compressed):
    """Wherever it ends, it is either refused or not: no other error gets out."""
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"S": np.eye(9)}, do_compression=compressed)
    whole = file.read_bytes()
    for size in range(1, len(whole), 7):
        file.write_bytes(whole[:size])
        with pytest.raises(data.DataError, match=re.escape(f"{file}: ")):
            read_mat(file, "S")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(data.DataError, match=r"none\.mat: no such file"):
        read_mat(tmp_path / "none.mat", "S")
    with pytest.raises(data.DataError, match="cannot be read: Is a directory"):
        read_mat(tmp_path, "S")


def test_scipy_is_missing(mat, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.io")
    with pytest.raises(
        data.MissingScipyError, match=r"pip install 'minifcn\[datasets\]'"
    ) as caught:
        read_mat(mat, "S")
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ImportError)


def test_scipy_is_an_extra():
    """The extra that the message names, and the tests' own."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert re.search(r'^datasets = \["scipy', text, re.MULTILINE)
    assert re.search(r'^test = .*"scipy', text, re.MULTILINE)


def test_check_map():
    assert check_map("x", np.array([[1.0, -2.0]])).tolist() == [[1, -2]]
    for bad in (np.zeros(3), np.zeros((1, 2, 3)), np.zeros((0, 3)), np.array([["a"]])):
        with pytest.raises(data.DataError, match=r"x: got .* a label map must be whole numbers"):
            check_map("x", bad)
    for value in (0.5, np.nan, np.inf):
        with pytest.raises(data.DataError, match=rf"x: got {value} at row 0, column 1"):
            check_map("x", np.array([[1, value]]))
