"""Narrow nets of every kind, for the tests of what is written for other programs."""

import numpy as np

from minifcn import models

NARROW = {
    "vgg16": {"width": 0.125},
    "alexnet": {"width": 0.125},
    "caffenet": {"width": 0.125},
    "googlenet": {"width": 0.125},
    "alexnet_torchvision": {"width": 0.125},
    "googlenet_torchvision": {"width": 0.125},
    "small": {"widths": (4, 4, 8, 8, 8)},
}


def net_of(model, backbone="small", num_classes=4, **options):
    """Return a narrow net none of whose parameters are zero."""
    rng = np.random.default_rng(0)
    if model in models.CLASSIFIERS:
        options = {"image_size": 99, **NARROW[model], **options}
    else:
        options = {"backbone": backbone, **NARROW[backbone], **options}
    net = models.build(model, num_classes=num_classes, rng=rng, **options)
    for parameter in net.parameters():
        parameter.data[...] += rng.normal(scale=0.02, size=parameter.shape)
    return net.eval()


FCNS = {
    "32s": ("fcn32s", "vgg16", {}),
    "16s": ("fcn16s", "vgg16", {}),
    "8s": ("fcn8s", "vgg16", {}),
    "8s at once": ("fcn8s", "vgg16", {"at_once": True}),
    "8s of maxima": ("fcn8s", "vgg16", {"fusion": "max"}),
    "8s with the smallest padding": ("fcn8s", "vgg16", {"padding": "smallest"}),
    "8s with two heads": ("fcn8s", "vgg16", {"num_classes": {"sem": 5, "geo": 3}}),
    "FCN-AlexNet": ("fcn32s", "caffenet", {}),
    "8s of AlexNet": ("fcn8s", "alexnet", {}),
    "torchvision's AlexNet": ("fcn16s", "alexnet_torchvision", {}),
    "8s of GoogLeNet": ("fcn8s", "googlenet", {}),
    "8s of torchvision's GoogLeNet": ("fcn8s", "googlenet_torchvision", {}),
    "8s of small": ("fcn8s", "small", {}),
}
