"""Reading every kind of image and label file, refusing the others, writing labels."""

import numpy as np
import pytest
from PIL import Image

from minifcn import data
from minifcn.files import WriteError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path, array_or_image, mode=None, **options):
    picture = array_or_image
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def test_rgb(tmp_path):
    image = data.read_image(saved(tmp_path / "a.png", RGB))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, RGB)


def test_path_may_be_text(tmp_path):
    np.testing.assert_array_equal(data.read_image(str(saved(tmp_path / "a.png", RGB))), RGB)


def test_gray_becomes_three_equal_channels(tmp_path):
    image = data.read_image(saved(tmp_path / "a.png", RGB[:, :, 0]))
    np.testing.assert_array_equal(image, np.repeat(RGB[:, :, :1], 3, axis=2))


def test_black_and_white(tmp_path):
    bits = RGB[:, :, 0] > 127
    image = data.read_image(saved(tmp_path / "a.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(image[:, :, 1], np.where(bits, 255, 0))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_gray_is_scaled(tmp_path, ending):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    image = data.read_image(saved(tmp_path / f"a.{ending}", values))
    np.testing.assert_array_equal(image[0, :, 0], [0, 0, 1, 1, 128, 255])
    assert image.shape == (1, 6, 3)


def test_palette_colours_are_used(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    image = data.read_image(saved(tmp_path / "a.png", picture))
    np.testing.assert_array_equal(image, [[[10, 20, 30], [40, 50, 60]]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_over_white(tmp_path, mode):
    picture = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 102))  # 40 per cent black
    image = data.read_image(saved(tmp_path / "a.png", picture, mode=mode))
    np.testing.assert_array_equal(image[0, :, 0], [0, 255, 153])


def test_transparent_palette_entry_is_laid_over_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    image = data.read_image(saved(tmp_path / "a.png", picture, transparency=0))
    np.testing.assert_array_equal(image, [[[255, 255, 255], [40, 50, 60]]])


def test_cmyk(tmp_path):
    white_and_red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image = data.read_image(saved(tmp_path / "a.jpg", white_and_red, quality=100))
    assert np.abs(image.astype(int) - (255, 0, 0)).max() < 8


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image = data.read_image(saved(tmp_path / "a.png", RGB, exif=exif))
    np.testing.assert_array_equal(image, np.rot90(RGB, -1))


def test_damaged_exif(tmp_path):
    path = saved(tmp_path / "a.png", RGB, exif=b"Exif\0\0no tags")
    with pytest.raises(data.DataError, match=r"EXIF data are damaged: .* save the image again"):
        data.read_image(path)


def test_image_too_large_to_be_honest(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", RGB)
    monkeypatch.setenv("MINIFCN_MAX_PIXELS", "34")
    with pytest.raises(data.DataError, match=r"35 pixels.* at most 34 .*cut the image into parts"):
        data.read_image(path)


def test_first_frame_of_an_animation(tmp_path):
    black, white = (Image.new("L", (4, 4), value) for value in (0, 255))
    black.save(tmp_path / "a.gif", save_all=True, append_images=[white])
    assert data.read_image(tmp_path / "a.gif").max() == 0


def test_float_pixels_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.ones((4, 4), np.float32))
    with pytest.raises(data.DataError, match=r"a\.tif: pixels are float numbers of unknown range"):
        data.read_image(path)


@pytest.mark.parametrize("reader", [data.read_image, data.read_label])
class TestFilesThatCannotBeRead:
    def test_missing(self, reader, tmp_path):
        with pytest.raises(data.DataError, match=r"none\.png: no such file"):
            reader(tmp_path / "none.png")

    def test_folder(self, reader, tmp_path):
        with pytest.raises(data.DataError, match="a folder, not an image"):
            reader(tmp_path)

    def test_empty(self, reader, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(data.DataError, match="not an image: the file is empty"):
            reader(tmp_path / "a.png")

    def test_text(self, reader, tmp_path):
        (tmp_path / "a.png").write_text("hello")
        with pytest.raises(data.DataError, match="not an image: 5 bytes of no known image format"):
            reader(tmp_path / "a.png")

    def test_no_pixels(self, reader, tmp_path):
        (tmp_path / "a.pgm").write_bytes(b"P5 0 4 255\n")
        with pytest.raises(data.DataError, match=r"a\.pgm: "):
            reader(tmp_path / "a.pgm")

    @pytest.mark.parametrize("ending", ["png", "gif", "tif", "bmp"])
    def test_truncated(self, reader, tmp_path, ending):
        noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
        whole = saved(tmp_path / f"whole.{ending}", noise).read_bytes()
        (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(data.DataError, match=rf"cut\.{ending}: "):
            reader(tmp_path / f"cut.{ending}")

    def test_changed_byte(self, reader, tmp_path):
        noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
        content = bytearray(saved(tmp_path / "a.png", noise).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(data.DataError, match="damaged or cut short"):
            reader(tmp_path / "a.png")


def test_truncated_jpeg(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(tmp_path / "a.jpg", noise).read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DataError, match=r"a\.jpg: image file is damaged or cut short"):
        data.read_image(tmp_path / "a.jpg")


LABEL = np.array([[0, 1, 2], [20, 21, 255]], np.uint8)


def test_label_from_gray(tmp_path):
    label = data.read_label(saved(tmp_path / "a.png", LABEL))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, LABEL)


def test_label_round_trip_and_colours(tmp_path):
    data.save_label(tmp_path / "a.png", LABEL.astype(np.int64), data.voc_palette(22))
    np.testing.assert_array_equal(data.read_label(tmp_path / "a.png"), LABEL)
    shown = data.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(shown[0], [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    assert shown[1, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_from_a_palette_with_few_bits(tmp_path, bits):
    label = np.arange(2**bits, dtype=np.uint8)[None]
    picture = Image.fromarray(label)
    picture.putpalette(data.voc_palette(2**bits).tobytes())
    path = saved(tmp_path / "a.png", picture, bits=bits)
    np.testing.assert_array_equal(data.read_label(path), label)


def gray_png_with_few_bits(path, bits):
    """Rewrite the header of a palette PNG, dropping the palette: gray of 2 or 4 bits."""
    import struct
    import zlib

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    row = b"\0" + bytes([0b00010000 if bits == 2 else 0x01])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("bits", [2, 4])
def test_label_in_stretched_gray_is_refused(tmp_path, bits):
    path = gray_png_with_few_bits(tmp_path / "a.png", bits)
    assert np.asarray(Image.open(path)).max() in (17, 85)  # what it would silently become
    with pytest.raises(data.DataError, match="gray with 2 or 4 bits"):
        data.read_label(path)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("RGB", r"of mode RGB \(colours are not numbers"),
        ("RGBA", r"of mode RGBA \(colours are not numbers"),
        ("1", "of mode 1: a label must be a PNG of palette indices or 8-bit gray"),
        ("LA", "of mode LA"),
    ],
)
def test_label_of_a_wrong_mode_is_refused(tmp_path, mode, message):
    path = saved(tmp_path / "a.png", RGB, mode=mode)
    with pytest.raises(data.DataError, match=message):
        data.read_label(path)


def test_label_of_16_bits(tmp_path):
    label = data.read_label(saved(tmp_path / "a.png", LABEL.astype(np.uint16)))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, LABEL)


def test_label_of_16_bits_with_a_large_value_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[1, 2], [300, 3]], np.uint16))
    with pytest.raises(data.DataError, match="label value 300 at row 1, column 0: a label must be"):
        data.read_label(path)


def test_label_of_three_equal_channels_says_what_to_do(tmp_path):
    path = saved(tmp_path / "a.png", np.repeat(LABEL[:, :, None], 3, axis=2))
    with pytest.raises(data.DataError, match=r"of mode RGB \(its three channels are equal: save"):
        data.read_label(path)


def test_label_as_jpeg_is_refused(tmp_path):
    path = saved(tmp_path / "a.jpg", LABEL)
    with pytest.raises(data.DataError, match="JPEG changes pixel values"):
        data.read_label(path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((2, 2)), r"float64 of shape \(2, 2\)"),
        (np.zeros((1, 2, 2), int), r"of shape \(1, 2, 2\): it must be integers of shape \(H, W\)"),
        (np.full((2, 2), 256), "holds 256 to 256: a PNG index is 0 to 255"),
        (np.full((2, 2), -1), "holds -1 to -1"),
    ],
)
def test_save_label_refuses(tmp_path, label, message):
    with pytest.raises(data.DataError, match=message):
        data.save_label(tmp_path / "a.png", label, data.voc_palette(2))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    data.save_label(tmp_path / "a.png", LABEL, data.voc_palette(22))

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(WriteError, match=r"a\.png: cannot be written: No space left"):
        data.save_label(tmp_path / "a.png", LABEL + 1, data.voc_palette(22))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(data.read_label(tmp_path / "a.png"), LABEL)


def test_writing_into_a_missing_folder(tmp_path):
    with pytest.raises(WriteError, match="cannot be written: No such file or directory"):
        data.save_label(tmp_path / "none" / "a.png", LABEL, data.voc_palette(22))


def test_voc_palette_values():
    """The published values; 21 and 255 tell a right bit order from a wrong one."""
    palette = data.voc_palette()
    assert palette.shape == (256, 3)
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        5: (128, 0, 128),
        6: (0, 128, 128),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        21: (128, 64, 128),
        255: (224, 224, 192),
    }
    assert {number: tuple(palette[number].tolist()) for number in expected} == expected
    assert len(np.unique(palette, axis=0)) == 256
