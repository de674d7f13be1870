"""Images are read ahead of their use: the same results, errors at their turn, threads that end."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from minifcn import data, labelling, models, prepare, weights
from minifcn.data.ahead import by_threads
from minifcn.data.fingerprint import fingerprint
from minifcn.evaluation import evaluate, score_images
from minifcn.parallel import Ranks
from minifcn.predict import PredictionError, predict_files

CLASSES = ("background", "circle", "square", "triangle")
PALETTE = data.voc_palette(4)


class Watched:
    """Eight images; what is read, and by which threads, is written down."""

    name, classes, palette, ignore_index = "watched", CLASSES, PALETTE, 255

    def __init__(self, bad=None):
        self.shapes, self.bad = data.shapes("val", length=8, size=32), bad
        self.read, self.threads = [], set()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.read.append(index)
        self.threads.add(threading.current_thread())
        if index == self.bad:
            raise data.DataError(f"{index}.png: image file is damaged")
        return self.shapes[index]


@pytest.fixture
def net():
    rng = np.random.default_rng(0)
    net = models.fcn32s(4, "small", widths=(4, 4, 8, 8, 8), rng=rng)
    for parameter in net.parameters():
        parameter.data[...] += rng.normal(scale=0.5, size=parameter.shape)
    return net


@pytest.fixture
def files(tmp_path):
    """A data set of twelve photographs of several sizes, the first of them blank."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    for number in range(12):
        size = 20 + 30 * (number % 3), 40
        image = rng.integers(0, 256, (*size, 3), np.uint8) * (number > 0)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "images" / f"{number:02}.png")
        label = rng.integers(0, 4, size, np.uint8)
        Image.fromarray(label).save(tmp_path / "labels" / f"{number:02}.png")
    return data.open_dataset(f"folder:{tmp_path}", "all")


def settled(read, count):
    """Wait until so much is read, then a moment; return how much is."""
    deadline = time.monotonic() + 10
    while len(read) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    return len(read)


# Threads


def test_several_threads_work_at_a_time_and_answer_in_order():
    both = threading.Barrier(2, timeout=10)

    def make(number):
        both.wait()
        time.sleep(0.01 * (number % 2))
        return number

    assert list(by_threads(make, range(8), 4, threads=2)) == list(range(8))


# Labelling


def test_while_a_gpu_works_a_thread_reads_the_next_two_images(cupy, net):
    dataset = Watched()
    scored = score_images(net, dataset, device="cuda")
    assert next(scored).number == 0
    assert settled(dataset.read, 3) == 3
    next(scored)
    assert settled(dataset.read, 4) == 4
    assert dataset.read == [0, 1, 2, 3]
    assert threading.current_thread() not in dataset.threads
    scored.close()
    assert not any(thread.is_alive() for thread in dataset.threads)


def test_on_a_cpu_each_image_is_read_at_its_turn(net):
    dataset = Watched()
    for one in score_images(net, dataset):
        assert dataset.read == list(range(one.number + 1))
    assert dataset.threads == {threading.current_thread()}


def test_reading_ahead_changes_no_result(cupy, net, monkeypatch):
    def labels():
        return np.stack([one.labels[""] for one in score_images(net, Watched(), device="cuda")])

    ahead = labels()
    monkeypatch.setattr(labelling, "AHEAD", 0)
    np.testing.assert_array_equal(labels(), ahead)
    assert (np.bincount(ahead.ravel()) > 0).sum() > 1


def test_a_rank_reads_its_own_images_only(cupy, net):
    ranks = Ranks()
    ranks.rank, ranks.number = 1, 3
    dataset = Watched()
    scored = score_images(net, dataset, device="cuda", ranks=ranks)
    assert [(one.number, one.sample.name) for one in scored] == [
        (number, f"val-{number:04}") for number in (1, 4, 7)
    ]
    assert dataset.read == [1, 4, 7]


def test_an_image_that_cannot_be_read_is_an_error_at_its_turn(xp, net):
    dataset, told = Watched(bad=4), []
    with pytest.raises(data.DataError, match=r"^4\.png: image file is damaged$"):
        evaluate(
            net,
            dataset,
            device="cpu" if xp is np else "cuda",
            progress=lambda done, total: told.append(done),
        )
    assert told == [1, 2, 3, 4]


def test_whoever_stops_an_evaluation_ends_the_thread(cupy, net):
    dataset = Watched()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        evaluate(net, dataset, device="cuda", progress=stop)
    assert caught.tb is not None  # which keeps the frames alive
    assert dataset.threads
    assert not any(thread.is_alive() for thread in dataset.threads)


def test_predictions_on_a_gpu_go_past_damaged_images(cupy, net, files, tmp_path):
    paths = [item.images[0] for item in files.items]
    paths[3].write_bytes(b"no image")
    paths[5].write_bytes(paths[5].read_bytes()[:60])
    loaded = weights.Loaded(net, CLASSES, PALETTE, data.UNIT, "")
    told = []
    with pytest.raises(PredictionError, match="2 of 12 images could not be read") as caught:
        predict_files(
            loaded,
            paths,
            tmp_path / "out",
            device="cuda",
            progress=lambda done, total: told.append(done),
        )
    assert [note.partition(": ")[0] for note in caught.value.__notes__] == [
        str(paths[3]),
        str(paths[5]),
    ]
    assert told == list(range(1, 13))
    for number in set(range(12)) - {3, 5}:
        label = data.read_label(tmp_path / "out" / f"{number:02}.png")
        assert label.shape == files[number].label.shape, number


# Before a training


def test_files_are_read_by_several_threads_with_the_same_result(files, monkeypatch):
    monkeypatch.setattr(prepare, "processors", lambda: 3)
    read, threads = files._read_images, set()

    def watched(path):
        threads.add(threading.current_thread())
        return read(path)

    files._read_images = watched
    told = []
    seen = prepare.read_all(files, told.append)
    assert told == list(range(1, 13))
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    assert seen.sizes == {(20, 40), (50, 40), (80, 40)}
    samples = [files[index] for index in range(12)]
    assert list(seen.names.items()) == [(fingerprint(s.image), s.name) for s in samples[1:]]
    labels = np.concatenate([sample.label.ravel() for sample in samples])
    np.testing.assert_array_equal(seen.pixels[""], np.bincount(labels, minlength=4))


@pytest.mark.parametrize("processors", [1, 4])
def test_of_several_bad_files_the_first_is_told(files, monkeypatch, processors):
    monkeypatch.setattr(prepare, "processors", lambda: processors)
    for number in (4, 5):
        files.items[number].images[0].write_bytes(b"")
    told = []
    with pytest.raises(data.DataError, match=r"04\.png: not an image: the file is empty"):
        prepare.read_all(files, told.append)
    assert told == [1, 2, 3, 4]
    files.items[5].images[0].write_bytes(files.items[6].images[0].read_bytes())
    Image.new("L", (40, 80)).save(files.items[5].labels[0])
    with pytest.raises(data.DataError, match="both must have one size"):
        prepare.read_all(files, told.append, skips=True)  # two of twelve are too many


def test_a_bad_file_is_passed_over_by_threads_too(files, monkeypatch):
    monkeypatch.setattr(prepare, "processors", lambda: 4)
    files.items[4].images[0].write_bytes(b"")
    told = []
    seen = prepare.read_all(files, told.append, skips=True)
    assert told == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert len(seen.names) == 10


def test_data_sets_of_other_kinds_are_read_by_nobody_else():
    dataset = Watched()
    prepare.read_all(dataset, lambda done: None)
    assert dataset.threads == {threading.current_thread()}
    assert dataset.read == list(range(8))
