"""Data sets as plain folders: what is kept, what is refused, and what an interruption leaves."""

import errno
from pathlib import Path

import layouts_folder
import layouts_voc
import numpy as np
import pytest
from PIL import Image

from minifcn import cli, data
from minifcn.data.convert import convert, convert_sbd
from minifcn.files import WriteError

LAYOUTS = [
    layouts_folder.make_folder,
    layouts_folder.make_colour_folder,
    layouts_folder.make_camvid,
    layouts_folder.make_camvid_published,
    layouts_folder.make_cityscapes,
    layouts_folder.make_csv,
]


def check_same(one, other):
    assert one.classes == other.classes
    np.testing.assert_array_equal(one.palette, other.palette)
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.name == second.name
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.label, second.label)


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_the_folder_is_the_same_data_set(make, tmp_path):
    spec = make(tmp_path / "from")
    done = convert(spec, tmp_path / "to")
    assert list(done.splits) == data.splits_of(spec)
    for split in data.splits_of(spec):
        if split != "all":  # of which the order may be another one
            # A folder has no colours of its own unless its list of classes says them.
            theirs = data.open_dataset(spec, split)
            check_same(data.open_dataset(done.spec, split), theirs)
            assert done.splits[split] == len(theirs)
    assert done.written == len(data.open_dataset(done.spec, "all"))
    assert done.kept == 0


def test_a_set_without_files(tmp_path):
    done = convert("shapes", tmp_path / "to", splits=["val"])
    assert done.splits == {"val": 50}
    check_same(data.open_dataset(f"folder:{tmp_path / 'to'}", "val"), data.shapes("val"))


def test_images_are_copied_and_labels_are_indices(tmp_path):
    spec = layouts_folder.make_colour_folder(tmp_path / "from")
    convert(spec, tmp_path / "to")
    for file in (tmp_path / "from" / "images").iterdir():
        assert (tmp_path / "to" / "images" / file.name).read_bytes() == file.read_bytes()
    for file in (tmp_path / "to" / "labels").iterdir():
        with Image.open(file) as picture:
            assert picture.mode == "P"


def test_an_image_that_the_data_set_changes_is_written_anew(tmp_path, monkeypatch):
    spec = layouts_folder.make_folder(tmp_path / "from")
    plain = data.Files.__getitem__

    def darker(self, index):
        image, label, name = plain(self, index)
        return data.Sample(image // 2, label, name)

    monkeypatch.setattr(data.Files, "__getitem__", darker)
    convert(spec, tmp_path / "to")
    monkeypatch.undo()
    before, after = data.open_dataset(spec, "val"), data.folder(tmp_path / "to", "val")
    np.testing.assert_array_equal(after[0].image, before[0].image // 2)
    assert sorted(file.suffix for file in (tmp_path / "to" / "images").iterdir()) == [".png"] * 6


def test_one_split(tmp_path):
    spec = layouts_folder.make_camvid(tmp_path / "from")
    assert convert(f"{spec}?split=val", tmp_path / "a").splits == {"val": 2}
    assert convert(spec, tmp_path / "b", splits=["val", "test"]).splits == {"val": 2, "test": 2}
    assert contents(tmp_path / "b").keys() > contents(tmp_path / "a").keys()
    with pytest.raises(data.DataError, match="names the split 'val': choose no other"):
        convert(f"{spec}?split=val", tmp_path / "c", splits=["test"])


def test_samples_in_several_splits_are_written_once(tmp_path):
    spec = layouts_folder.make_folder(tmp_path / "from")
    seen = []
    done = convert(spec, tmp_path / "to", progress=lambda *numbers: seen.append(numbers))
    assert done.splits == {"train": 3, "val": 3, "all": 6}
    assert seen == [(number, 6) for number in range(1, 7)]


def test_names_in_subfolders(tmp_path):
    spec = layouts_folder.make_csv(tmp_path / "from")
    done = convert(spec, tmp_path / "to")
    assert done.spec == f"folder:{tmp_path / 'to'}?recursive=yes"
    assert (tmp_path / "to" / "images" / "data" / "images" / "b.jpg").is_file()


def test_one_name_for_two_samples(tmp_path):
    spec = layouts_folder.make_camvid(tmp_path / "from")
    for folder in ("val", "valannot"):
        file = next((tmp_path / "from" / folder).iterdir())
        other = sorted((tmp_path / "from" / folder.replace("val", "train")).iterdir())[0]
        file.rename(file.with_name(other.name))
    with pytest.raises(
        data.DataError, match="two samples are called '0001TR_000000', in the split"
    ):
        convert(spec, tmp_path / "to")
    assert not (tmp_path / "to").exists()


class TestInterrupted:
    @pytest.fixture
    def spec(self, tmp_path):
        return layouts_folder.make_folder(tmp_path / "from")

    def full_after(self, monkeypatch, files):
        """Let the disk be full after some files: a part of the next one is written."""
        real, written = Path.write_bytes, []

        def write(path, content):
            written.append(path)
            if len(written) > files:
                real(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, content)

        monkeypatch.setattr(Path, "write_bytes", write)

    @pytest.mark.parametrize("files", [0, 1, 4, 5, 12, 13])
    def test_full_disk(self, spec, tmp_path, monkeypatch, files):
        convert(spec, tmp_path / "whole")
        whole = contents(tmp_path / "whole")
        self.full_after(monkeypatch, files)
        with pytest.raises(WriteError, match="cannot be written: No space left") as caught:
            convert(spec, tmp_path / "to")
        assert "the same command goes on from there" in caught.value.__notes__[0]
        monkeypatch.undo()
        part = contents(tmp_path / "to")
        assert len(part) == files
        assert part.items() < whole.items()  # nothing is half-written
        done = convert(spec, tmp_path / "to")
        assert (done.written, done.kept) == (6 - max(0, files - 1) // 2, max(0, files - 1) // 2)
        assert contents(tmp_path / "to") == whole

    def test_full_disk_when_a_file_is_renamed(self, spec, tmp_path, monkeypatch):
        def full(path, target):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(WriteError, match=r"classes\.txt: cannot be written: No space left"):
            convert(spec, tmp_path / "to")
        assert contents(tmp_path / "to") == {}

    def test_what_is_there_is_kept_unless_it_is_to_be_replaced(self, spec, tmp_path):
        convert(spec, tmp_path / "to")
        whole = contents(tmp_path / "to")
        (tmp_path / "to" / "labels" / "b.png").write_bytes(b"changed")
        assert convert(spec, tmp_path / "to").written == 0
        assert contents(tmp_path / "to") != whole
        assert convert(spec, tmp_path / "to", overwrite=True).written == 6
        assert contents(tmp_path / "to") == whole

    def test_bad_file(self, spec, tmp_path):
        (tmp_path / "from" / "labels" / "b.png").write_bytes(b"")
        with pytest.raises(data.DataError, match=r"labels.b\.png: not an image") as caught:
            convert(spec, tmp_path / "to")
        assert not hasattr(caught.value, "__notes__")


class TestPlace:
    @pytest.fixture
    def spec(self, tmp_path):
        return layouts_folder.make_folder(tmp_path / "from")

    def test_a_file(self, spec, tmp_path):
        (tmp_path / "to").touch()
        with pytest.raises(data.DataError, match="to: is a file: name a folder"):
            convert(spec, tmp_path / "to")

    def test_the_data_set_itself(self, spec, tmp_path):
        with pytest.raises(data.DataError, match="is where the data set itself lies"):
            convert(spec, tmp_path / "from")

    def test_another_data_set(self, spec, tmp_path):
        convert("shapes?split=val", tmp_path / "to")
        with pytest.raises(data.DataError, match="holds something else than this data set"):
            convert(spec, tmp_path / "to", overwrite=True)

    def test_other_files(self, spec, tmp_path):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "notes.txt").touch()
        with pytest.raises(data.DataError, match="holds something else"):
            convert(spec, tmp_path / "to")

    def test_folder_that_cannot_be_made(self, spec, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(WriteError, match="cannot be made: Not a directory") as caught:
            convert(spec, tmp_path / "file" / "to")
        assert "goes on" in caught.value.__notes__[0]


class Odd:
    """A data set that a plain folder cannot hold."""

    name, ignore_index = "odd", 255
    classes, palette = ("a", "b"), data.voc_palette(2)

    def __init__(self, heads=None, streams=None):
        self.heads, self.streams = heads, streams

    def __len__(self):
        return 0


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"heads": {"semantic": None, "geometric": None}},
            r"labels of 2 kinds, semantic and geometric.* as shapes\?labels=semantic",
        ),
        ({"streams": {"color": 3, "hha": 3}}, "images of 6 channels: a folder holds colour images"),
        ({"streams": {"": 1}}, "images of 1 channels"),
    ],
)
def test_what_a_folder_cannot_hold(members, message, tmp_path, monkeypatch):
    monkeypatch.setattr("minifcn.data.convert.open_dataset", lambda *_: Odd(**members))
    with pytest.raises(data.DataError, match=message):
        convert("shapes", tmp_path / "to")
    assert not (tmp_path / "to").exists()


class TestSbd:
    @pytest.fixture
    def root(self, tmp_path):
        layouts_voc.make_sbd(tmp_path)
        return next(tmp_path.rglob("cls")).parent

    def test_png_beside_mat(self, root):
        before = data.sbd(root, "train")
        assert {item.labels[0].suffix for item in before.items} == {".mat"}
        expected = list(before)
        count = len(list((root / "cls").glob("*.mat")))
        assert convert_sbd(root) == (count, 0)
        after = data.sbd(root, "train")
        assert {item.labels[0].suffix for item in after.items} == {".png"}
        for one, other in zip(expected, after, strict=True):
            np.testing.assert_array_equal(one.label, other.label)
        assert convert_sbd(root) == (0, count)
        assert convert_sbd(root, overwrite=True) == (count, 0)

    def test_full_disk(self, root, monkeypatch):
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(WriteError, match=r"\.png: cannot be written: full") as caught:
            convert_sbd(root)
        assert "goes on from there" in caught.value.__notes__[0]
        assert {file.suffix for file in (root / "cls").iterdir()} == {".mat"}

    def test_nothing_to_convert(self, root):
        for file in (root / "cls").iterdir():
            file.unlink()
        with pytest.raises(data.DataError, match=r"cls: holds no \.mat files"):
            convert_sbd(root)

    def test_command(self, root, capsys):
        assert run("data", "convert", f"sbd:{root}", "--in-place") == 0
        count = len(list((root / "cls").glob("*.mat")))
        assert f"{root}: {count} labels written, 0 were there" in capsys.readouterr().out
        assert len(list((root / "cls").glob("*.png"))) == count > 0


def run(*arguments):
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return caught.value.code


def test_command(tmp_path, capsys):
    spec = layouts_folder.make_camvid(tmp_path / "from")
    out = tmp_path / "to"
    assert run("data", "convert", spec, "--out", out, "--split", "val", "--split", "test") == 0
    said = capsys.readouterr().out
    assert "4 images with labels written, 0 were there (val 2, test 2)" in said
    assert f"Use it as folder:{out}" in said
    assert run("data", "convert", spec, "--out", out, "--split", "val") == 0
    assert "0 images with labels written, 2 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes"], "name the folder to write with --out, or give --in-place for sbd:PATH"),
        (["shapes", "--out", "x", "--in-place"], "name the folder to write with --out, or give"),
        (["shapes", "--in-place"], "--in-place is for sbd:PATH without a split, not for 'shapes'"),
        (["sbd:x?split=val", "--in-place"], "--in-place is for sbd:PATH without a split"),
    ],
)
def test_command_with_wrong_options(arguments, message, capsys):
    assert run("data", "convert", *arguments) == 2
    assert message in capsys.readouterr().err
