"""Data sets, preprocessing, random changes and batches."""

from minifcn.data.dataset import (
    IGNORE,
    DataError,
    Dataset,
    Head,
    Sample,
    check_label,
    count_pixels,
    heads_of,
    streams_of,
)
from minifcn.data.files import Files, Item
from minifcn.data.folder import folder
from minifcn.data.images import read_image, read_label, save_image, save_label, voc_palette
from minifcn.data.landcover import landcover
from minifcn.data.loader import Batch, Loader
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
)
from minifcn.data.shapes import shapes
from minifcn.data.sources import open_dataset, splits_of
from minifcn.data.transforms import (
    augment,
    colour_jitter,
    random_crop,
    random_flip,
    random_rotate90,
)
from minifcn.data.voc_classes import VOC_CLASSES

__all__ = [
    "CAFFE",
    "CAFFE_GOOGLENET",
    "CAFFE_VGG",
    "IGNORE",
    "LANDCOVER",
    "NYUD",
    "NYUD_HHA",
    "PRESETS",
    "SIFTFLOW",
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
    "Preprocessing",
    "Sample",
    "augment",
    "check_label",
    "colour_jitter",
    "count_pixels",
    "folder",
    "heads_of",
    "landcover",
    "open_dataset",
    "random_crop",
    "random_flip",
    "random_rotate90",
    "read_image",
    "read_label",
    "save_image",
    "save_label",
    "shapes",
    "splits_of",
    "streams_of",
    "voc_palette",
]
