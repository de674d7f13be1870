"""Images of all kinds, as bytes: whole ones, and such as are made to do harm."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

SMOOTH = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)


def saved(mode, kind, **options):
    """Return a picture of 24 x 20 pixels as a file."""
    picture = Image.fromarray(SMOOTH).convert("L" if mode.startswith("I") else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def images():
    """Return image files that can be read, by what they are."""
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.fromarray(SMOOTH + np.uint8(i)) for i in (1, 2)]
    animated = {"save_all": True, "append_images": frames}
    found = {f"png {mode}": saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    found |= {
        "png 16 bits": saved("I;16", "PNG"),
        "png clear colour": saved("P", "PNG", transparency=3),
        "png text": saved("RGB", "PNG", pnginfo=_texts("plain")),
        "apng": saved("RGB", "PNG", **animated),
        "jpeg": saved("RGB", "JPEG"),
        "jpeg gray": saved("L", "JPEG"),
        "jpeg cmyk": saved("CMYK", "JPEG"),
        "jpeg progressive": saved("RGB", "JPEG", progressive=True),
        "jpeg turned": saved("RGB", "JPEG", exif=turned),
        "jpeg of several": saved("RGB", "MPO", **animated),
        "gif": saved("P", "GIF"),
        "gif animated": saved("RGB", "GIF", **animated),
        "bmp": saved("RGB", "BMP"),
        "bmp of indices": saved("P", "BMP"),
        "ppm": saved("RGB", "PPM"),
        "tga": saved("RGB", "TGA", compression="tga_rle"),
        "webp": saved("RGB", "WEBP"),
        "webp lossless": saved("RGBA", "WEBP", lossless=True),
        "webp animated": saved("RGB", "WEBP", **animated),
        "jpeg 2000": saved("RGB", "JPEG2000"),
        "tiff 16 bits": saved("I;16", "TIFF"),
    }
    for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        found[f"tiff {way}"] = saved("RGB", "TIFF", compression=way)
    return found


def _texts(text):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", text, zip=True)
    return texts


def chunk(kind, content):
    """Return a piece of a PNG file."""
    code = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", code)


def png(width, height, pixels=b"", more=b"", depth=8, kind=0):
    """Return a gray PNG file that says that it has this size, whatever it holds."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more
    return begin + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_sums(content):
    """Return a PNG file whose pieces have the right checksums, so that more of it is read."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    found, place = content[:8], 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        if place + 12 + size > len(content):
            break
        found += chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + size])
        place += 12 + size
    return found + content[place:]


def bombs():
    """Return files that unpack to much more than they are, by what they are."""
    packed = zlib.compress(bytes(50_000_000), 9)
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"a" * 50_000_000, 9))
    profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * 50_000_000, 9))
    tiff = bytearray(saved("RGB", "TIFF", compression="raw"))
    tags = int.from_bytes(tiff[4:8], "little")
    for number in range(int.from_bytes(tiff[tags : tags + 2], "little")):
        entry = tags + 2 + 12 * number
        if int.from_bytes(tiff[entry : entry + 2], "little") in (256, 257):  # width, length
            tiff[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 200_000)
    return {
        "a png of 4 billion pixels": png(65_000, 65_000),
        "a png of 2^62 pixels": png(2**31 - 1, 2**31 - 1),
        "a png of one row": png(2**31 - 1, 1, packed),
        "a png of many pixels": png(20_000, 20_000, packed),
        "a png with a long text": png(4, 4, zlib.compress(bytes(20)), text),
        "a png with a long profile": png(4, 4, zlib.compress(bytes(20)), profile),
        "a png with 300 texts": png(4, 4, zlib.compress(bytes(20)), text * 300),
        "a gif of 4 billion pixels": b"GIF89a\xff\xff\xff\xff\0\0\0,"
        b"\0\0\0\0\xff\xff\xff\xff\0\2\0;",
        "a bmp of 10^12 pixels": b"BM" + struct.pack("<IIIIiiHHIIIIII", *_BMP),
        "a tga of 4 billion pixels": struct.pack("<BBBHHBHHHHBB", *_TGA),
        "a ppm of 10^18 pixels": b"P6 1000000000 1000000000 255 ",
        "a tiff of 40 billion pixels": bytes(tiff),
        "a postscript program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        b"(/tmp/evil) (w) file closefile showpage\n",
    }


_BMP = (100, 0, 54, 40, 10**6, 10**6, 1, 24, 0, 0, 0, 0, 0, 0)
_TGA = (0, 0, 2, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0)
