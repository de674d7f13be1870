"""Data sets, preprocessing, random changes and batches."""

from minifcn.data.camvid import CAMVID_CLASSES, camvid
from minifcn.data.check import check
from minifcn.data.cityscapes import CITYSCAPES_CLASSES, cityscapes
from minifcn.data.context import CONTEXT_CLASSES, context
from minifcn.data.dataset import (
    IGNORE,
    DataError,
    Dataset,
    Head,
    Sample,
    channels_in_words,
    check_alike,
    check_label,
    count_pixels,
    heads_of,
    label_by_head,
    streams_of,
)
from minifcn.data.files import Files, Item
from minifcn.data.fingerprint import fingerprint
from minifcn.data.folder import folder
from minifcn.data.images import read_image, read_label, save_image, save_label, voc_palette
from minifcn.data.landcover import landcover
from minifcn.data.loader import Batch, Loader
from minifcn.data.mat import MissingScipyError
from minifcn.data.nyud import NYUD_CLASSES, nyud
from minifcn.data.pairs import pairs
from minifcn.data.preprocessing import (
    CAFFE,
    CAFFE_GOOGLENET,
    CAFFE_VGG,
    LANDCOVER,
    NYUD,
    NYUD_HHA,
    PRESETS,
    SIFTFLOW,
    TORCHVISION,
    TORCHVISION_GOOGLENET,
    UNIT,
    Preprocessing,
    presets_of,
)
from minifcn.data.sbd import sbd
from minifcn.data.shapes import shapes
from minifcn.data.siftflow import SIFTFLOW_CLASSES, SIFTFLOW_GEOMETRY, siftflow
from minifcn.data.sources import open_dataset, splits_of
from minifcn.data.transforms import (
    augment,
    colour_jitter,
    hflip,
    random_crop,
    random_flip,
    random_rotate90,
    random_scale,
    resize,
    resize_label,
)
from minifcn.data.voc import voc
from minifcn.data.voc_classes import VOC_CLASSES

__all__ = [
    "CAFFE",
    "CAFFE_GOOGLENET",
    "CAFFE_VGG",
    "CAMVID_CLASSES",
    "CITYSCAPES_CLASSES",
    "CONTEXT_CLASSES",
    "IGNORE",
    "LANDCOVER",
    "NYUD",
    "NYUD_CLASSES",
    "NYUD_HHA",
    "PRESETS",
    "SIFTFLOW",
    "SIFTFLOW_CLASSES",
    "SIFTFLOW_GEOMETRY",
    "TORCHVISION",
    "TORCHVISION_GOOGLENET",
    "UNIT",
    "VOC_CLASSES",
    "Batch",
    "DataError",
    "Dataset",
    "Files",
    "Head",
    "Item",
    "Loader",
    "MissingScipyError",
    "Preprocessing",
    "Sample",
    "augment",
    "camvid",
    "channels_in_words",
    "check",
    "check_alike",
    "check_label",
    "cityscapes",
    "colour_jitter",
    "context",
    "count_pixels",
    "fingerprint",
    "folder",
    "heads_of",
    "hflip",
    "label_by_head",
    "landcover",
    "nyud",
    "open_dataset",
    "pairs",
    "presets_of",
    "random_crop",
    "random_flip",
    "random_rotate90",
    "random_scale",
    "read_image",
    "read_label",
    "resize",
    "resize_label",
    "save_image",
    "save_label",
    "sbd",
    "shapes",
    "siftflow",
    "splits_of",
    "streams_of",
    "voc",
    "voc_palette",
]
