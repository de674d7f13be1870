"""Caffe's messages as classes of the protobuf library, independent of minifcn's own reader.

Written after Caffe's caffe.proto: the fields that weight files have, and some to be skipped.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# name: (field, number, type, "" or "repeated" or "packed")
MESSAGES = {
    "BlobShape": [("dim", 1, "int64", "packed")],
    "BlobProto": [
        ("shape", 7, "BlobShape", ""),
        ("data", 5, "float", "packed"),
        ("diff", 6, "float", "packed"),
        ("double_data", 8, "double", "packed"),
        ("double_diff", 9, "double", "packed"),
        ("num", 1, "int32", ""),
        ("channels", 2, "int32", ""),
        ("height", 3, "int32", ""),
        ("width", 4, "int32", ""),
    ],
    "ParamSpec": [("name", 1, "string", ""), ("lr_mult", 3, "float", "")],
    "ConvolutionParameter": [
        ("num_output", 1, "uint32", ""),
        ("bias_term", 2, "bool", ""),
        ("pad", 3, "uint32", "repeated"),
        ("kernel_size", 4, "uint32", "repeated"),
        ("stride", 6, "uint32", "repeated"),
    ],
    "LayerParameter": [
        ("name", 1, "string", ""),
        ("type", 2, "string", ""),
        ("bottom", 3, "string", "repeated"),
        ("top", 4, "string", "repeated"),
        ("loss_weight", 5, "float", "repeated"),
        ("param", 6, "ParamSpec", "repeated"),
        ("blobs", 7, "BlobProto", "repeated"),
        ("convolution_param", 106, "ConvolutionParameter", ""),
    ],
    "V0LayerParameter": [
        ("name", 1, "string", ""),
        ("type", 2, "string", ""),
        ("blobs", 50, "BlobProto", "repeated"),
    ],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter", ""),
        ("bottom", 2, "string", "repeated"),
        ("top", 3, "string", "repeated"),
        ("name", 4, "string", ""),
        ("type", 5, "int32", ""),  # an enumeration: the same bytes
        ("blobs", 6, "BlobProto", "repeated"),
        ("blobs_lr", 7, "float", "repeated"),
        ("weight_decay", 8, "float", "repeated"),
        ("convolution_param", 10, "ConvolutionParameter", ""),
    ],
    "NetParameter": [
        ("name", 1, "string", ""),
        ("layers", 2, "V1LayerParameter", "repeated"),
        ("input", 3, "string", "repeated"),
        ("input_dim", 4, "int32", "repeated"),
        ("force_backward", 5, "bool", ""),
        ("layer", 100, "LayerParameter", "repeated"),
    ],
}


def net_class(packed=True):
    """Return the class of nets; its repeated numbers are packed as in Caffe, or not at all."""
    field_type = descriptor_pb2.FieldDescriptorProto
    package = f"caffe_{'packed' if packed else 'unpacked'}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package)
    file.syntax = "proto2"
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            added = message.field.add(name=field, number=number)
            added.label = field_type.LABEL_REPEATED if label else field_type.LABEL_OPTIONAL
            if kind in MESSAGES:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(field_type, f"TYPE_{kind.upper()}")
            if label == "packed" and packed:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.NetParameter"))
