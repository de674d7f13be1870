"""The operations: for each one its formula, array function, gradient rules, loops and samples."""

from .activation import dropout, log_softmax, relu, sigmoid, softmax, tanh
from .arithmetic import add, div, exp, log, maximum, mul, neg, pow, sqrt, sub
from .conv import conv2d, conv2d_weight, conv_transpose2d
from .conv_relu import conv2d_relu
from .linear import linear, matmul
from .loss import LabelError, check_labels, cross_entropy
from .normalization import local_response_norm
from .pooling import avg_pool2d, max_pool2d, max_pool2d_relu
from .reduction import max, mean, sum
from .shaping import broadcast_to, permute, reshape, sum_to, to, transpose
from .slicing import cat, crop, getitem, pad

__all__ = [
    "LabelError",
    "add",
    "avg_pool2d",
    "broadcast_to",
    "cat",
    "check_labels",
    "conv2d",
    "conv2d_relu",
    "conv2d_weight",
    "conv_transpose2d",
    "crop",
    "cross_entropy",
    "div",
    "dropout",
    "exp",
    "getitem",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "max_pool2d_relu",
    "maximum",
    "mean",
    "mul",
    "neg",
    "pad",
    "permute",
    "pow",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sqrt",
    "sub",
    "sum",
    "sum_to",
    "tanh",
    "to",
    "transpose",
]
