"""Data sets, preprocessing, random changes and batches."""

from minifcn.data.dataset import IGNORE, DataError, Dataset, Sample, check_label, count_pixels
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
from minifcn.data.sources import open_dataset
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
    "Loader",
    "Preprocessing",
    "Sample",
    "augment",
    "check_label",
    "colour_jitter",
    "count_pixels",
    "folder",
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
    "voc_palette",
]
