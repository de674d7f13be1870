"""Labelling arrays and files: right classes, safe file names, nothing changed in the net."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from minifcn import Error, data, models, weights
from minifcn.autograd import is_recording
from minifcn.data.names import UnsafeNameError
from minifcn.predict import (
    PredictionError,
    find_images,
    plan,
    predict,
    predict_files,
)

CLASSES = ("red", "green", "blue")


class Samples(list):
    """A data set of given samples."""

    name, classes, palette, ignore_index = "samples", CLASSES, np.eye(3, dtype=np.uint8) * 255, 255


def tiny(num_classes=4):
    rng = np.random.default_rng(0)
    net = models.fcn8s(num_classes, "small", widths=(4, 4, 8, 8, 8), dropout=0.5, rng=rng)
    for parameter in net.parameters():
        parameter.data[...] += rng.normal(scale=0.05, size=parameter.shape)
    return net


class Brightest(models.FCN):
    """A net that answers which of red, green and blue is the highest."""

    def forward(self, x):
        return x * self.factor


def brightest():
    net = Brightest(models.small_trunk((4, 4, 8, 8, 8)), 3)
    net.factor = models.fcn._score_layer(1, 1).weight
    net.factor.data[...] = 1
    return net


@pytest.fixture
def loaded():
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    return weights.Loaded(brightest(), CLASSES, palette, data.UNIT, "")


@pytest.fixture
def photos(tmp_path):
    """A folder with an image of each kind: two RGB, a gray one and one with transparency."""
    folder = tmp_path / "photos"
    folder.mkdir()
    halves = np.zeros((20, 30, 3), np.uint8)
    halves[:, :15, 2] = 200
    halves[:, 15:, 1] = 200
    Image.fromarray(halves).save(folder / "b.png")
    Image.fromarray(halves[:, ::-1].copy()).save(folder / "a.TIF")
    Image.new("L", (7, 5), 90).save(folder / "gray.jpg")
    Image.new("RGBA", (4, 4), (0, 200, 0, 255)).save(folder / "see-through.webp", lossless=True)
    return folder


# One array


@pytest.mark.parametrize("size", [(2, 2), (37, 50), (64, 3)])
def test_a_class_for_every_pixel(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    label = predict(tiny(), image, data.UNIT)
    assert label.shape == size
    assert label.dtype == np.uint8
    assert label.max() < 4


def test_the_highest_score_wins():
    image = np.array([[(200, 0, 0), (0, 200, 0), (0, 0, 200)]] * 2, np.uint8)
    assert predict(brightest(), image, data.UNIT).tolist() == [[0, 1, 2]] * 2


def test_preprocessing_decides_what_the_net_sees():
    image = np.array([[(200, 0, 0), (0, 0, 200)]] * 2, np.uint8)
    assert predict(brightest(), image, data.CAFFE).tolist() == [[2, 0]] * 2


def test_the_net_stays_as_it_was():
    net = tiny().train()
    net.conv1_1.training = False
    before = {name: module.training for name, module in net.named_modules()}
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    first, second = predict(net, image, data.UNIT), predict(net, image, data.UNIT)
    np.testing.assert_array_equal(first, second)  # no dropout
    assert {name: module.training for name, module in net.named_modules()} == before
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_mode_comes_back_after_an_error():
    net = brightest().train()
    seen = []

    def forward(x):
        seen.append((net.training, is_recording()))
        raise ZeroDivisionError

    net.forward = forward
    with pytest.raises(ZeroDivisionError):
        predict(net, np.zeros((2, 2, 3), np.uint8), data.UNIT)
    assert seen == [(False, False)]
    assert net.training
    assert is_recording()


def test_only_the_scores_of_one_tile_are_there_at_a_time():
    """The scores of the whole image would take 9 MB."""
    net = tiny(num_classes=40)
    image = np.zeros((100, 601, 3), np.uint8)
    predict(net, image, data.UNIT, tile=288)  # now all buffers are there
    tracemalloc.start()
    predict(net, image, data.UNIT, tile=288)
    tiled = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    predict(net, image, data.UNIT, tile=None)
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole > 601 * 100 * 40 * 4
    assert tiled < 0.55 * whole


def test_a_float64_net():
    assert predict(tiny().to(np.float64), np.zeros((9, 9, 3), np.uint8), data.UNIT).shape == (9, 9)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 5), (1, 5, 5, 3)])
def test_not_one_image(shape):
    with pytest.raises(PredictionError, match=r"must be \(H, W, 3\)"):
        predict(tiny(), np.zeros(shape, np.uint8), data.UNIT)


def test_not_bytes():
    with pytest.raises(data.DataError, match="must be uint8"):
        predict(tiny(), np.zeros((5, 5, 3)), data.UNIT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite(value):
    net = brightest()
    net.factor.data[...] = value
    with pytest.raises(PredictionError, match="scores are not finite"):
        predict(net, np.full((2, 2, 3), 255, np.uint8), data.UNIT)


def test_too_little_memory():
    net = brightest()

    def forward(x):
        raise MemoryError("Unable to allocate 9 GiB")

    net.forward = forward
    with pytest.raises(PredictionError, match=r"20 x 30 pixels.*9 GiB"):
        predict(net, np.zeros((20, 30, 3), np.uint8), data.UNIT)


@pytest.mark.parametrize("device", ["tpu", "float64"])
def test_unknown_device(device):
    net = tiny()
    with pytest.raises(Error, match="unknown device"):
        predict(net, np.zeros((5, 5, 3), np.uint8), data.UNIT, device)
    assert net.conv1_1.weight.dtype == np.float32


def test_gpu_gives_the_same_classes(xp):
    net = brightest()
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = predict(net, image, data.UNIT)
    device = "cpu" if xp is np else "cuda"
    np.testing.assert_array_equal(predict(net, image, data.UNIT, device), expected)


# Finding images


def test_images_of_a_folder_are_sorted_and_others_are_named(photos):
    (photos / "notes.txt").touch()
    (photos / "deeper.png").mkdir()
    (photos / ".hidden.png").touch()
    images, skipped = find_images([photos])
    assert [file.name for file in images] == ["a.TIF", "b.png", "gray.jpg", "see-through.webp"]
    assert [file.name for file in skipped] == ["deeper.png", "notes.txt"]


def test_a_file_named_itself_is_taken_whatever_its_ending(photos):
    (photos / "notes.txt").touch()
    assert find_images([photos / "notes.txt"]) == ([photos / "notes.txt"], [])


def test_nothing_there(tmp_path):
    with pytest.raises(PredictionError, match="nowhere: no such file or folder"):
        find_images([tmp_path / "nowhere"])


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PredictionError, match="no images in this folder"):
        find_images([tmp_path])


# Which files are made


@pytest.mark.parametrize(
    ("first", "second"),
    [("x/a.jpg", "x/a.png"), ("x/a.jpg", "y/a.jpg"), ("x/a.jpg", "x/a_overlay.jpg")],
)
def test_results_of_one_name(tmp_path, first, second):
    with pytest.raises(PredictionError, match="would both be written to") as caught:
        plan([tmp_path / first, tmp_path / second], tmp_path / "out")
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_the_same_image_twice_is_done_once(tmp_path):
    assert len(plan([tmp_path / "a.jpg", tmp_path / "a.jpg"], tmp_path)) == 1


@pytest.mark.parametrize("other", ["a.png", "b.png", "a_overlay.png"])
def test_an_image_is_never_replaced(tmp_path, other):
    images = [tmp_path / "b.jpg"] if other == "b.png" else [tmp_path / "a.tif"]
    if other == "a.png":
        images = []
    with pytest.raises(PredictionError):
        plan([*images, tmp_path / other], tmp_path)


def test_an_image_behind_a_link_is_never_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PredictionError, match="would replace it"):
        plan([tmp_path / "real" / "a.png"], tmp_path / "link")


def test_each_head_has_results_of_its_own(tmp_path):
    (job,) = plan([tmp_path / "a.jpg"], tmp_path / "out", ["sem", "geo"])
    names = {head: file.name for head, file in job.result.labels.items()}
    assert names == {"sem": "a.png", "geo": "a_geo.png"}
    names = {head: file.name for head, file in job.result.overlays.items()}
    assert names == {"sem": "a_overlay.png", "geo": "a_geo_overlay.png"}
    with pytest.raises(PredictionError, match=r"both be written to .*a_geo\.png"):
        plan([tmp_path / "a.jpg", tmp_path / "a_geo.jpg"], tmp_path / "out", ["sem", "geo"])


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "a\\b", ""])
def test_a_name_that_leads_out_of_the_folder(tmp_path, name):
    images = Samples([data.Sample(np.zeros((4, 4, 3), np.uint8), None, name)])
    with pytest.raises(UnsafeNameError, match=r"leads out of the folder for results"):
        plan([images], tmp_path / "out")


def test_files_of_a_data_set_are_never_replaced(tmp_path):
    image, label = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(image)
    Image.new("L", (4, 4)).save(label)
    images = data.Files("mine", [data.Item("a", (image,), (label,))], ["sea", "land"])
    with pytest.raises(
        PredictionError, match=r"a\.png is one of the images, and the result of mine: a"
    ):
        plan([images], tmp_path)


# Files


def test_every_kind_of_image_in_a_folder(photos, loaded, tmp_path):
    calls = []
    images, _ = find_images([photos])
    done = predict_files(
        loaded, images, tmp_path / "new" / "out", progress=lambda *n: calls.append(n)
    )
    assert [job.image for job in done] == images
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    names = {"a", "b", "gray", "see-through"}
    expected = {f"{n}.png" for n in names} | {f"{n}_overlay.png" for n in names}
    assert {file.name for file in (tmp_path / "new" / "out").iterdir()} == expected
    label = data.read_label(tmp_path / "new" / "out" / "b.png")
    assert (label[:, :15] == 2).all()
    assert (label[:, 15:] == 1).all()
    with Image.open(tmp_path / "new" / "out" / "b.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    assert data.read_label(tmp_path / "new" / "out" / "gray.png").shape == (5, 7)


def test_progress_within_an_image(photos, loaded, tmp_path):
    Image.new("RGB", (340, 9), (0, 200, 0)).save(photos / "b.png")
    calls = []
    jobs = predict_files(
        loaded,
        [photos / "b.png", photos / "gray.jpg"],
        tmp_path,
        tile=300,
        progress=lambda *n: calls.append(n),
    )
    assert [len(job.tiles) for job in jobs] == [2, 1]
    assert calls == [(0.5, 2), (1, 2), (2, 2)]
    assert (data.read_label(tmp_path / "b.png") == 1).all()


def test_the_overlay_shows_image_and_legend(photos, loaded, tmp_path):
    (job,) = predict_files(loaded, [photos / "b.png"], tmp_path)
    pixels = data.read_image(job.overlays[""])
    colours = set(map(tuple, pixels.reshape(-1, 3).tolist()))
    assert (0, 0, (200 + 255) // 2) in colours  # blended half and half
    assert {(0, 0, 255), (0, 255, 0)} <= colours  # the legend's swatches
    assert (255, 0, 0) not in colours  # no pixel is red: not in the legend
    assert pixels.shape[1] > 30


def test_overlays_are_written_in_little_time(photos, loaded, tmp_path, monkeypatch):
    levels, save = {}, Image.Image.save

    def watched(self, file, **options):
        levels[self.mode] = options["compress_level"]
        save(self, file, **options)

    monkeypatch.setattr(Image.Image, "save", watched)
    predict_files(loaded, [photos / "b.png"], tmp_path / "out")
    assert levels == {"P": 6, "RGB": 1}


def test_images_are_left_alone(photos, loaded):
    before = {file: file.read_bytes() for file in photos.iterdir()}
    images, _ = find_images([photos])
    with pytest.raises(PredictionError):
        predict_files(loaded, images, photos)
    assert {file: file.read_bytes() for file in photos.iterdir()} == before


def test_results_may_be_replaced(photos, loaded, tmp_path):
    for _ in range(2):
        predict_files(loaded, [photos / "b.png"], tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_one_damaged_image_does_not_stop_the_others(photos, loaded, tmp_path):
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:60])
    images, _ = find_images([photos])
    with pytest.raises(data.DataError, match=r"b\.png: image file is damaged"):
        predict_files(loaded, images, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_several_damaged_images_are_all_named(photos, loaded, tmp_path):
    (photos / "b.png").write_bytes(b"")
    (photos / "gray.jpg").write_bytes(b"no image")
    images, _ = find_images([photos])
    with pytest.raises(PredictionError, match="2 of 4 images could not be read") as caught:
        predict_files(loaded, images, tmp_path / "out")
    assert [note.partition(": ")[0] for note in caught.value.__notes__] == [
        str(photos / "b.png"),
        str(photos / "gray.jpg"),
    ]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_folder_for_results_cannot_be_made(photos, loaded):
    with pytest.raises(PredictionError, match="cannot be made: Not a directory"):
        predict_files(loaded, [photos / "b.png"], photos / "b.png" / "out")


def test_folder_for_results_is_a_file(photos, loaded):
    with pytest.raises(PredictionError, match="cannot be made: File exists"):
        predict_files(loaded, [photos / "b.png"], photos / "gray.jpg")


# Data sets


def test_a_data_set_beside_files(photos, loaded, tmp_path):
    green = np.full((6, 8, 3), (0, 200, 0), np.uint8)
    nested = Samples([data.Sample(green, np.zeros((6, 8), np.uint8), "day 1/green")])
    done = predict_files(loaded, [photos / "b.png", nested], tmp_path / "out")
    assert [job.image for job in done] == [photos / "b.png", "samples: day 1/green"]
    assert (data.read_label(tmp_path / "out" / "day 1" / "green.png") == 1).all()
    assert (tmp_path / "out" / "day 1" / "green_overlay.png").is_file()


def with_net(model, classes, preprocessing):
    palette = data.voc_palette(len(classes))
    return weights.Loaded(model, tuple(classes), palette, preprocessing, "")


def test_a_net_with_two_heads(photos, tmp_path):
    model = models.fcn16s({"sem": 3, "geo": 2}, "small", widths=(4, 4, 8, 8, 8))
    model.score_fr_sem.bias.data[:] = [0, 0, 1]
    model.score_fr_geo.bias.data[:] = [0, 1]
    image = data.read_image(photos / "b.png")
    found = predict(model, image, data.UNIT)
    assert list(found) == ["sem", "geo"]
    assert found["geo"].shape == image.shape[:2]
    two = with_net(model, "abcde", data.UNIT)
    (job,) = predict_files(two, [photos / "b.png"], tmp_path)
    assert (data.read_label(job.labels["sem"]) == 2).all()
    assert (data.read_label(job.labels["geo"]) == 1).all()
    with Image.open(job.labels["geo"]) as picture:  # the colours of classes d and e
        assert picture.convert("RGB").getpixel((0, 0)) == tuple(two.palette[4].tolist())
    assert {file.name for file in tmp_path.glob("b*")} == {
        "b.png",
        "b_overlay.png",
        "b_geo.png",
        "b_geo_overlay.png",
    }


DEEP = data.Preprocessing("RGB", 1.0, (0.0,) * 4, (1.0,) * 4)


def test_images_with_other_channels_come_from_a_data_set(photos, tmp_path):
    model = models.fcn32s(3, "small", widths=(4, 4, 8, 8, 8), in_channels=4)
    net = with_net(model, "abc", DEEP)
    message = r"b\.png: the net takes images with 4 channels, and an image file is read as three"
    with pytest.raises(PredictionError, match=message):
        predict_files(net, [photos / "b.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    image = np.full((6, 8, 4), (0, 200, 0, 7.5), np.float32)
    deep = Samples([data.Sample(image, np.zeros((6, 8), np.uint8), "deep")])
    with pytest.raises(
        PredictionError, match=r"^samples: its images have 3 channels, the net takes 4"
    ):
        predict_files(net, [deep], tmp_path / "out")
    deep.streams = {"": 4}
    (job,) = predict_files(net, [deep], tmp_path / "out")
    assert data.read_image(job.overlays[""]).shape[2] == 3


def test_two_streams_are_not_one(tmp_path):
    model = models.for_data("fcn32s", {"": 3}, {"color": 3, "hha": 3}, backbone="small")
    net = with_net(model, "abc", DEEP)
    image = np.zeros((6, 8, 6), np.uint8)
    both = Samples([data.Sample(image, np.zeros((6, 8), np.uint8), "both")])
    both.streams = {"": 6}
    message = "its images have 6 channels, the net takes 3 of color and 3 of hha: choose"
    with pytest.raises(PredictionError, match=message):
        predict_files(net, [both], tmp_path)
