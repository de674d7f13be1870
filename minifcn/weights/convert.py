"""Weights of other programs become nets of ours, with all that is needed to use them.

The steps, each with a file of its own: the arrays are read (`foreign`), their names become ours
(`keymaps`), names and shapes tell the net (`recognise`), and each array is brought into its
parameter's shape (`transforms`). What was done is reported, and nothing is left over or left out
unless that is asked for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import models
from .._version import __version__
from ..backend import Error
from ..data import CAFFE, VOC_CLASSES, Preprocessing, voc_palette
from ..flow import Undrawn
from ..models import FCN, Classifier, Report
from ..models.surgery import Line
from . import recognise
from .filling import Filling
from .foreign import Foreign, open_foreign
from .header import Header, WeightsError, is_own, read_header, title
from .keymaps import Named, named_tensors
from .native import Loaded, load_own, places
from .pieces import Progress, release
from .readers.mapped import MappedFile
from .recognise import Target
from .transforms import fold_input

OWN = "minifcn"  # the format, and the source, of our own files
FORMATS = {
    "caffe": "Caffe",
    "caffe-hdf5": "Caffe (HDF5)",
    "torch": "PyTorch",
    "chainer": "Chainer",
    "numpy": "NumPy",
    "keras": "Keras",
    "safetensors": "safetensors",
}


class Converted(NamedTuple):
    """A net with weights from elsewhere, and what is needed to use it.

    Attributes
    ----------
    net
        The net, on the CPU.
    report
        What became of each parameter and of each array of the file: copied, reshaped, folded,
        scaled, checked, new or dropped.
    preprocessing
        How images are prepared for it.
    class_names, palette
        Of its classes: PASCAL VOC's for the published nets, else numbers.
    origin
        The file's name, and what kind of file it is.
    source_sha256
        The file's checksum.
    trained_on
        The images that it was trained on, if the file was one of minifcn's that tells them.
    """

    net: FCN | Classifier
    report: Report
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    palette: np.ndarray
    origin: str
    source_sha256: str
    trained_on: frozenset[int] = frozenset()

    def facts(self) -> dict[str, Any]:
        """Return all that `minifcn.weights.save` wants to know beside net and file."""
        return {
            "classes": self.class_names,
            "palette": self.palette,
            "preprocessing": self.preprocessing,
            "origin": self.origin,
            "source_sha256": self.source_sha256,
            "trained_on": self.trained_on,
        }


def convert(
    path: str | Path,
    model: str | None = None,
    *,
    source: str | None = None,
    classes: int | None = None,
    fold: bool = False,
    strict: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Converted:
    """Return the net in a weight file of another program, or of minifcn.

    Parameters
    ----------
    path
        A file that `open_foreign` reads, or one of `minifcn.weights.save`.
    model
        The net: a name of `minifcn.models.MODELS`, or ``"fcn8s-atonce"`` or ``"fcn-alexnet"``. An
        FCN takes the layers of a classifier's file, too; give ``classes`` then. If it is None, the
        file must tell.
    source
        Where the weights are from, which decides how images are prepared: ``"caffe"``,
        ``"wkentaro"``, ``"chainer"``, ``"keras"``, ``"torchvision"``, ``"nyud"``, ``"nyud-hha"``,
        ``"siftflow"``, ``"unit"`` or ``"landcover"``. If it is None, the file must tell.
    classes
        A number of classes: the scores start at zero then, and the rest is taken over.
    fold
        Change the first layer so that the net takes images prepared as for Caffe's nets (BGR, 0 to
        255, minus a mean). Exact but for the padding at the edges.
    strict
        Raise if a parameter has no array, or an array no parameter. If False, such parameters are
        random, such arrays are left out, and the report says so.
    progress
        Called with the bytes that are done, and all of them.
    **options
        Of the net, such as ``backbone``, ``padding`` or ``image_size``. Most follow from the file.

    Raises
    ------
    WeightsError
        If the file cannot be read, does not tell enough, does not fit, or holds numbers that are
        not finite.

    Examples
    --------
    >>> import tempfile
    >>> net = models.fcn16s(21, width=0.125)
    >>> arrays = {name.replace(".weight", "/W").replace(".bias", "/b"): array
    ...           for name, array in net.state_dict().items()}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/net.npz", **arrays)
    ...     converted = convert(folder + "/net.npz")
    >>> converted.net.config["model"], converted.class_names[1], converted.preprocessing == CAFFE
    ('fcn16s', 'aeroplane', True)
    >>> converted.report.counts()
    {'copied': 36}
    """
    path = Path(path)
    header = read_header(path) if is_own(path) else None
    foreign = _own_tensors(path, header) if header else open_foreign(path)
    for array in foreign.tensors.values():
        release(array)  # a reader may have looked at all of them, for their checksums
    named = named_tensors(foreign)
    if header:
        chosen = _target_of_own(path, header, model, classes, options)
    else:
        chosen = recognise.target(path, named, foreign.info, model, classes, **options)
    rule = _rule(foreign, named, header, source, chosen)
    if fold and (rule.order, rule.scale, rule.std) == (CAFFE.order, CAFFE.scale, CAFFE.std):
        raise WeightsError(f"{path}: its images are prepared as Caffe's already: nothing to fold")
    filling = Filling(path, named, _build(path, chosen), new_scores=classes is not None)
    if filling.check(strict):
        # Only now random numbers are worth their time.
        filling.net = _build(path, chosen, np.random.default_rng(0))
    lines = filling.fill(progress)
    if fold:
        lines = _fold(path, filling.net, rule, lines)
        rule = CAFFE
    names, palette = _classes(filling.net, header, classes is not None)
    checksum = header.source_sha256 if header else ""
    if not checksum:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    kind = FORMATS.get(foreign.format, "minifcn")
    return Converted(
        filling.net,
        Report(tuple(lines)),
        rule,
        names,
        palette,
        header.origin if header else f"{path.name} ({kind}), converted by minifcn {__version__}",
        checksum,
        header.trained_on if header else frozenset(),
    )


def load(path: str | Path, *, progress: Progress | None = None, **options: Any) -> Loaded:
    """Return the net in a weight file, with its classes, palette and preprocessing.

    Parameters
    ----------
    path
        A file of `save`, or one of another program, which is converted.
    progress
        Called with the bytes read, and all of them.
    **options
        Those of `convert`, for a file of another program, or to change the net of our own.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or does not tell enough; see `convert`.
    """
    if is_own(path) and not options:
        return load_own(path, progress)
    found = convert(path, progress=progress, **options)
    return Loaded(
        found.net,
        found.class_names,
        found.palette,
        found.preprocessing,
        found.origin,
        found.trained_on,
    )


def load_fcn(path: str | Path, **options: Any) -> Loaded:
    """Return the net in a file as `load` does; raise if it does not label every pixel.

    Raises
    ------
    WeightsError
        As `load`, and if the file holds a classifier.
    """
    if is_own(path) and not options:
        _refuse_classifier(path, read_header(path).config)  # before all is read
    loaded = load(path, **options)
    _refuse_classifier(path, loaded.model.config)
    return loaded


def _refuse_classifier(path: str | Path, config: dict[str, Any]) -> None:
    if config.get("model") in models.CLASSIFIERS:
        raise WeightsError(
            f"{path}: holds {title(config)}, a classifier: it names one class for a whole image, "
            "not one for each pixel; make an FCN of it with minifcn train --init"
        )


def _own_tensors(path: Path, header: Header) -> Foreign:
    """Return the tensors of one of our files, as views of it."""
    file = MappedFile(path)
    dtype = np.dtype(header.dtype).newbyteorder("<").str
    at = places(path)
    tensors = {n: file.array(dtype, shape, at[n], n) for n, shape in header.shapes.items()}
    return Foreign(path, OWN, tensors, {})


def _target_of_own(
    path: Path, header: Header, model: str | None, classes: int | None, options: dict[str, Any]
) -> Target:
    """Return the net for the tensors of one of our files."""
    config = dict(header.config)
    own = config.pop("model")
    wanted, more = recognise.ALIASES.get(model or own, (model or own, {}))
    if own in models.CLASSIFIERS and wanted not in models.CLASSIFIERS:
        if classes is None:
            raise WeightsError(
                f"{path}: holds {title(header.config)}, which has no scores for {wanted}: say how "
                "many classes it is to tell apart (classes)"
            )
        config = models.trunk_options(header.config)
    if own == "late_fusion" or (wanted in models.CLASSIFIERS and wanted != own):
        raise WeightsError(f"{path}: holds {title(header.config)}, which cannot become {wanted}")
    if classes is not None:
        config["num_classes"] = classes
    return Target(wanted, config | more | options)


def _rule(
    foreign: Foreign, named: Named, header: Header | None, source: str | None, chosen: Target
) -> Preprocessing:
    """Return how images are prepared for the weights."""
    path = foreign.path
    if header is not None:
        if source not in (None, OWN):
            raise WeightsError(
                f"{path}: is one of minifcn's own and knows how images are prepared for it: leave "
                f"out the source {source!r}"
            )
        return header.preprocessing
    return recognise.preprocessing(path, source or recognise.origin(foreign, named), chosen)


def _build(path: Path, chosen: Target, rng: np.random.Generator | None = None) -> Any:
    """Return the net; its trunk is of zeros if no generator is given."""
    try:
        rng = rng or Undrawn()
        return models.build(chosen.model, rng=rng, **chosen.options)
    except (Error, TypeError, ValueError) as error:
        described = title({"model": chosen.model, **chosen.options})
        raise WeightsError(f"{path}: no net {described}: {error}") from error


def _fold(path: Path, net: FCN | Classifier, rule: Preprocessing, lines: list[Line]) -> list[Line]:
    """Let the first layer take images that are prepared as Caffe's."""
    parameters = dict(net.named_parameters())
    weight_name = next(name for name, p in parameters.items() if p.ndim == 4)
    bias_name = weight_name.replace("weight", "bias")
    weight, bias = parameters[weight_name], parameters[bias_name]
    if weight.shape[1] != 3:
        raise WeightsError(f"{path}: fold: {weight_name} reads {weight.shape[1]} channels, not 3")
    weight.data[...], bias.data[...] = fold_input(weight.data, bias.data, rule, CAFFE)
    note = "; now for images prepared as Caffe's"
    return [
        line._replace(what="folded", detail=line.detail + note)
        if line.name in (weight_name, bias_name)
        else line
        for line in lines
    ]


def _classes(
    net: FCN | Classifier, header: Header | None, new: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names and colours of a net's classes."""
    if header is not None and not new:
        return header.classes, header.palette
    names: list[str] = []
    for head, count in getattr(net, "heads", {"": net.num_classes}).items():
        if isinstance(net, FCN) and count == len(VOC_CLASSES) and not new:
            names += VOC_CLASSES
        else:
            names += (f"{head.removeprefix('_') or 'class'} {i}" for i in range(count))
    return tuple(names), voc_palette(net.num_classes)
