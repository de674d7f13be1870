"""Your own images and labels, listed in a CSV file."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import NamedTuple

from minifcn.data.colours import ClassTable, read_classes
from minifcn.data.dataset import DataError
from minifcn.data.files import Files, Item
from minifcn.data.folder import CLASS_FILES, choose, class_table, list_splits
from minifcn.data.label_codes import check_mask, label_code
from minifcn.data.names import same_file_key
from minifcn.data.splits import check_disjoint, read_lines, read_table
from minifcn.plain_text import one_line

LAYOUT = """
  image,label,split
  photos/1.jpg,masks/1.png,train
  photos/2.jpg,masks/2.png,val
Paths start at the folder of the file; the column split may be left out."""


class Pair(NamedTuple):
    """A line of the file: an image with its label, and the split if there is such a column."""

    item: Item
    split: str


def pairs(
    path: str | Path,
    split: str,
    *,
    classes: str = "",
    ignore: str = "",
    values: str = "",
    codes: str = "auto",
) -> Files:
    """Return a data set of the pairs of images and labels in a CSV file.

    Its first line is ``image,label`` or ``image,label,split``; columns may be divided by commas,
    semicolons or tabs. Paths start at the folder of the file and may lead anywhere. A sample is
    called as its image, without the ending and without what leads out of the folder.

    Parameters
    ----------
    path
        The CSV file.
    split
        A name in the column split. Without this column as for `minifcn.data.folder`: ``"train"``
        is every pair unless a ``train.txt`` beside the file lists the names. ``"all"`` is all.
    classes
        The list of classes, as for `minifcn.data.folder`; ``classes.txt`` or ``classes.csv`` beside
        the file if it is not given.
    ignore, values, codes
        What label values mean, as for `minifcn.data.label_codes.label_code`.

    Raises
    ------
    DataError
        If the file is no such list, names a file twice or one that is missing, or the list of
        classes is missing.
    """
    path = Path(path)
    rows = read_pairs(path)
    table = _classes(path, classes)
    code = label_code(table, ignore, values, codes)
    items = {item.name: item for item, _ in rows}
    if split == "all":
        names = list(items)
    elif rows[0].split:
        names = _by_column(path, rows, split)
    else:
        names = choose(path.parent, split, items)
    if not names:
        raise DataError(f"{path}: split {split!r} is empty: no image is left for it")
    chosen = [items[name] for name in names]
    data = Files(f"{path} {split}", chosen, {"": table.head}, read_labels=code)
    check_mask(code, [item.labels[0] for item in chosen], table.head.classes)
    return data


def pairs_splits(path: str | Path, **options: str) -> list[str]:
    """Return the names of the splits of a CSV file; the options are those of `pairs`."""
    path = Path(path)
    rows = read_pairs(path)
    if rows[0].split:
        return list(dict.fromkeys([*(row.split for row in rows), "all"]))
    return list_splits(path.parent, [row.item.name for row in rows])


def read_pairs(path: Path) -> list[Pair]:
    """Return what a CSV file lists, in its order.

    Raises
    ------
    DataError
        If there is no such file, columns or cells are missing, or an image is listed twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; a list of pairs looks like this:" + LAYOUT)
    lines = read_lines(path)
    header = lines[0].lower() if lines else ""
    divider = next((sign for sign in ",;\t" if sign in header), ",")
    titles = next(iter(read_table(path, [header], divider)), [])
    if titles not in (["image", "label"], ["image", "label", "split"]):
        raise DataError(
            f"{path}: the first line is {one_line(header)!r}; it must be as here:" + LAYOUT
        )
    rows: list[Pair] = []
    seen: dict[Path, int] = {}
    taken: set[str] = set()
    for number, cells in enumerate(read_table(path, lines[1:], divider), 2):
        if len(cells) != len(titles) or not all(cells):
            raise DataError(
                f"{path}: entry {number} is {one_line(divider.join(cells))!r}: it must hold "
                f"{divider.join(titles)}, none of them empty"
            )
        image = path.parent / cells[0]
        if image in seen:
            raise DataError(
                f"{path}: {cells[0]!r} is listed twice: entries {seen[image]}, {number}"
            )
        seen[image] = number
        name = _free_name(cells[0], taken)
        item = Item(name, (image,), (path.parent / cells[1],))
        rows.append(Pair(item, cells[2] if len(cells) > 2 else ""))
    if not rows:
        raise DataError(f"{path}: lists no images")
    return rows


def _free_name(image: str, taken: set[str]) -> str:
    """Return a name for an image that is good for files of results, and not yet taken."""
    place = PurePath(image).with_suffix("")
    parts = [part for part in place.parts if part not in ("..", place.anchor)]
    name, number = "/".join(parts), 1
    while same_file_key(name) in taken:
        number += 1
        name = "/".join(parts) + f"_{number}"
    taken.add(same_file_key(name))
    return name


def _classes(path: Path, classes: str) -> ClassTable:
    if classes:
        return read_classes(path.parent / classes)
    if not any((path.parent / name).exists() for name in CLASS_FILES):
        raise DataError(
            f"{path}: there is no classes.txt beside it, with one class name a line: write one, or "
            "add ?classes=FILE"
        )
    return class_table(path.parent)


def _by_column(path: Path, rows: list[Pair], split: str) -> list[str]:
    lists: dict[str, list[str]] = {}
    images: dict[str, list[Path]] = {}
    for (name, files, _), where in rows:
        lists.setdefault(where, []).append(name)
        images.setdefault(where, []).append(files[0].resolve())
    if split not in lists:
        known = ", ".join([*lists, "all"])
        raise DataError(f"{path}: unknown split {split!r}: the column split has {known}")
    if split in ("train", "val") and {"train", "val"} <= set(images):
        train, val = (map(str, images[key]) for key in ("train", "val"))
        check_disjoint(f"{path}: train", train, "val", val)
    return lists[split]
