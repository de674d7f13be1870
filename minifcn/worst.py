"""The images that a net does worst on: a sheet of image, truth, prediction and errors."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from .data import Dataset, heads_of, label_by_head, save_image, streams_of
from .evaluation import EvaluationError, Scored
from .files import replace_file
from .parallel import Ranks
from .report import legend_list, page, percent, picture_row
from .sample_pictures import stacked, stream_pictures
from .viz import colour_label, legend, overlay, panel

ERRORS = np.array([(255, 255, 255), (200, 16, 46)], np.uint8)  # right, wrong
LOOKS = ".row { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }"
SIDE, WIDTH = 320, 200  # of a picture: the longer side on a page at most, the width in a PNG


class Case(NamedTuple):
    """An image with its own scores, and what is shown of it: pictures by title."""

    name: str
    mean_iu: float
    accuracy: float
    pictures: dict[str, Image.Image]

    @property
    def told(self) -> str:
        """The name and the scores, in words."""
        scores = f"mean IU {percent(self.mean_iu)}, pixel accuracy {percent(self.accuracy)}"
        return f"{self.name}: {scores}"


class Worst:
    """Keeps the images of the lowest mean IU, of the first kind of labels, while others go by.

    An image's own mean IU is over the classes in it, and those predicted. Images without any
    labelled pixel are left out. Of those kept, only small pictures stay in memory.

    Parameters
    ----------
    dataset
        Whose images go by.
    count
        How many are kept.
    absent
        As for `minifcn.metrics.ConfusionMatrix.mean_iu`.

    Examples
    --------
    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> from minifcn.evaluation import score_images
    >>> net, dataset = models.fcn32s(4, "small"), shapes("val", length=3)
    >>> worst = Worst(dataset, count=2)
    >>> for one in score_images(net, dataset):
    ...     worst.add(one)
    >>> [list(case.pictures) for case in worst.cases()]
    [['image', 'truth', 'prediction', 'errors'], ['image', 'truth', 'prediction', 'errors']]
    """

    def __init__(
        self, dataset: Dataset, count: int, absent: Literal["zero", "exclude"] = "zero"
    ) -> None:
        if count < 1:
            raise EvaluationError(f"the worst {count} images: it must be at least 1")
        self.dataset, self.count, self.absent = dataset, count, absent
        self._heap: list[tuple[float, int, Case]] = []  # the best of the kept ones goes first

    def add(self, one: Scored) -> None:
        """Look at an image, and keep it if it is among the worst so far."""
        matrix = next(iter(one.matrices.values()))
        score = matrix.mean_iu(self.absent)
        if math.isnan(score):
            return
        rank = (-score, -one.number)  # of two as bad the first is kept
        if len(self._heap) == self.count and rank < self._heap[0][:2]:
            return
        case = Case(one.sample.name, score, matrix.pixel_accuracy(), pictures(self.dataset, one))
        self._keep((*rank, case))

    def _keep(self, case: tuple[float, int, Case]) -> None:
        heapq.heappush(self._heap, case)
        if len(self._heap) > self.count:
            heapq.heappop(self._heap)

    def gather(self, ranks: Ranks) -> None:
        """Let each rank have the worst of those that all kept."""
        kept, self._heap = ranks.gather(self._heap), []
        for case in itertools.chain(*kept):
            self._keep(case)

    def cases(self) -> list[Case]:
        """Return what was kept, the worst first."""
        return [case for *_, case in sorted(self._heap, key=lambda kept: kept[:2], reverse=True)]


def pictures(dataset: Dataset, one: Scored) -> dict[str, Image.Image]:
    """Return small pictures by title: the image; truth, prediction and errors for each head."""
    found = stream_pictures(one.sample.image, streams_of(dataset))
    ground = next(iter(found.values()))
    for head, truth in label_by_head(one.sample.label, heads_of(dataset)).items():
        said, palette = one.labels[head], heads_of(dataset)[head].palette
        wrong = np.where(truth == dataset.ignore_index, truth, truth != said).astype(np.uint8)
        kind = f" ({head})" if len(one.labels) > 1 else ""
        found[f"truth{kind}"] = colour_label(truth, palette)
        found[f"prediction{kind}"] = colour_label(said, palette)
        found[f"errors{kind}"] = overlay(ground, wrong, ERRORS, 0.7)
    for title, picture in found.items():
        sharp = title.startswith(("truth", "prediction"))  # no colours between two classes
        method = Image.Resampling.NEAREST if sharp else Image.Resampling.BOX
        picture.thumbnail((SIDE, SIDE), method)
    return found


def write_sheet(path: Path, cases: Sequence[Case], dataset: Dataset) -> None:
    """Write a sheet of images as one file, ``.png`` or ``.html``, complete or not at all.

    Raises
    ------
    EvaluationError
        If there are no images to show, or the file is to be of another kind.
    WriteError
        If it cannot be written.
    """
    check_sheet(path)
    if not cases:
        raise EvaluationError(f"{dataset.name}: no image has a labelled pixel: nothing to show")
    if path.suffix.lower() == ".html":
        replace_file(path, _page(cases, dataset).encode())
        return
    titles = list(cases[0].pictures)
    space = len(titles) * WIDTH
    heads = heads_of(dataset).values()
    key = stacked([legend(*head, ignored=True, max_width=space) for head in heads])
    rows = [list(case.pictures.values()) for case in cases]
    names = [case.told for case in cases]
    save_image(path, panel(rows, titles, names=names, legend=key, width=WIDTH))


def check_sheet(path: Path) -> None:
    """Refuse a sheet that is neither a picture nor a page.

    >>> check_sheet(Path("worst.html"))
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise EvaluationError(f"{path}: a sheet is a .png or .html file: change its ending")


def _page(cases: Sequence[Case], dataset: Dataset) -> str:
    rows = [picture_row(case.told, case.name, case.pictures) for case in cases]
    legends = "\n".join(
        legend_list(head.classes, head.palette) for head in heads_of(dataset).values()
    )
    told = (
        "The lowest mean IU first, each image's own. Errors are red; what does not count is pale."
    )
    body = f"<p>{told}</p>\n{legends}\n{''.join(rows)}"
    return page(f"The worst {len(cases)} images of {dataset.name}", body, LOOKS)
