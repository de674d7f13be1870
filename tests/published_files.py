"""Nets of ours as files of other programs, written by those programs' own libraries."""

import re

import numpy as np

from minifcn import models
from minifcn.models import VGG16
from tests.caffe_proto import net_class


def caffe_name(name):
    """Return the name of a layer in the published Caffe net: those of GoogLeNet have slashes."""
    if name.startswith(("inception", "loss1", "loss2")):
        return name.replace(".", "/")
    if name == "loss3_classifier" or re.match(r"conv\d_\dx\d", name):
        return name.replace("_", "/", 1)
    return name


def layers_of(net):
    """Return the arrays of each layer: name to weight and bias."""
    found = {}
    for name, array in net.state_dict().items():
        found.setdefault(name.rpartition(".")[0], []).append(np.ascontiguousarray(array))
    return found


def caffe_file(path, net, scales=None, legacy=False, double=False, name="published"):
    """Write a .caffemodel with protobuf; ``scales`` are those of Scale layers, by pooling."""
    message = net_class()()
    message.name = name
    every = layers_of(net)
    every |= {f"scale_{tap}": [values] for tap, values in (scales or {}).items()}
    for layer, arrays in every.items():
        if legacy:
            added = message.layers.add(name=caffe_name(layer), type=4)
        else:
            added = message.layer.add(name=caffe_name(layer), type="Convolution")
        for array in arrays:
            blob = added.blobs.add()
            if legacy:
                sizes = (*(1,) * (4 - array.ndim), *array.shape)
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(array.shape)
            (blob.double_data if double else blob.data).extend(array.ravel().tolist())
    path.write_bytes(message.SerializeToString())


def caffe_hdf5_file(path, net):
    import h5py

    with h5py.File(path, "w") as file:
        for layer, arrays in layers_of(net).items():
            group = file.create_group(f"data/{caffe_name(layer)}")
            for i, array in enumerate(arrays):
                group[str(i)] = array


def chainer_file(path, net):
    arrays = {}
    for layer, (weight, *bias) in layers_of(net).items():
        arrays[f"{layer}/W"] = weight
        arrays |= {f"{layer}/b": array for array in bias}
    np.savez(path, **arrays)


def torch_file(path, state, wrapped=False, legacy=False, **more):
    import torch

    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
    if wrapped:
        state = {"epoch": 3, "model_state_dict": state, "best_mean_iu": 0.6, **more}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def torchvision_vgg16(state):
    """Return a state dict under torchvision's names, from a table of its own."""
    table = {
        **{"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7},
        **{"conv3_1": 10, "conv3_2": 12, "conv3_3": 14},
        **{"conv4_1": 17, "conv4_2": 19, "conv4_3": 21},
        **{"conv5_1": 24, "conv5_2": 26, "conv5_3": 28},
    }
    names = {layer: f"features.{i}" for layer, i in table.items()}
    names |= {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    return {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": a for n, a in state.items()}


KERAS_PARTS = {
    "keras 1": ("{0}_W_1:0", "{0}_b_1:0"),
    "keras 2": ("{0}/kernel:0", "{0}/bias:0"),
}


def keras_layers(net, side):
    """Yield Keras's name, kernel and bias of each layer of VGG16; fc6 sees maps side x side."""
    names = {f"conv{s}_{i}": f"block{s}_conv{i}" for s, w in enumerate(VGG16, 1) for i in (1, 2, 3)}
    names |= {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    for layer, (weight, bias) in layers_of(net).items():
        if weight.ndim == 4:
            kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))  # OIHW -> HWIO
        elif layer == "fc6":
            maps = weight.reshape(len(weight), -1, side, side)  # O, then (C, h, w)
            kernel = maps.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # (h, w, C), then O
        else:
            kernel = weight.T
        yield names[layer], kernel, bias


def keras_file(path, net, side, kind="keras 2"):
    import h5py

    with h5py.File(path, "w") as file:
        listed = []
        for i, (layer, kernel, bias) in enumerate(keras_layers(net, side)):
            if kind == "keras 3":
                place = f"layers/{'conv2d' if kernel.ndim == 4 else 'dense'}_{i}/vars"
                file[f"{place}/0"], file[f"{place}/1"] = kernel, bias
                file[place].attrs["name"] = layer
                continue
            parts = [part.format(layer) for part in KERAS_PARTS[kind]]
            group = file.create_group(layer)
            group[parts[0]], group[parts[1]] = kernel, bias
            group.attrs["weight_names"] = np.array(parts, "S")
            listed.append(layer)
        if listed:
            file.attrs["layer_names"] = np.array(listed, "S")
            file.attrs["backend"] = np.bytes_("tensorflow")


def vgg16(seed=0, **options):
    return models.vgg16(10, width=0.125, image_size=64, rng=np.random.default_rng(seed), **options)
