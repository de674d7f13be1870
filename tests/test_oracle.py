"""The operations, drawn at random, beside PyTorch's: the same results and the same gradients.

PyTorch is only a judge here, never needed to use minifcn. Each case is drawn from its own seed.
"""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, models, nn, optim
from minifcn.gradcheck import relative_error

pytestmark = pytest.mark.oracle

# Float64 is only rounded differently; a float32 sum of a few thousand products differs by more.
LIMITS = {np.float64: 1e-10, np.float32: 2e-5}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def cases(count):
    return pytest.mark.parametrize("seed", range(count))


def generator(operation, seed):
    return np.random.default_rng([*operation.encode(), seed])


def shuffled_memory(rng, array):
    """Return the same numbers, contiguous, channels-last, or as part of a larger array."""
    kind = rng.integers(3) if array.ndim == 4 else 0
    if kind == 1:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if kind == 2:
        large = np.zeros([n + 1 for n in array.shape], array.dtype)
        view = large[tuple(slice(1, None) for _ in array.shape)]
        view[...] = array
        return view
    return array


def compare(torch, rng, ours, theirs, limits=LIMITS, **arrays):
    """Compute both in float64 and float32; assert the same output and the same gradients."""
    arrays = {name: array for name, array in arrays.items() if array is not None}
    for dtype, limit in limits.items():
        # PyTorch gets copies in NumPy's order, and computes in its own way.
        mine = {n: Tensor(shuffled_memory(rng, a.astype(dtype)), True) for n, a in arrays.items()}
        its = {n: torch.tensor(a.astype(dtype), requires_grad=True) for n, a in arrays.items()}
        y, expected = ours(**mine), theirs(**its)
        assert y.shape == tuple(expected.shape)
        assert y.dtype == dtype
        assert relative_error(y.numpy(), expected.detach().numpy()) <= limit
        g = rng.normal(size=y.shape).astype(dtype)
        y.backward(Tensor(g))
        expected.backward(torch.tensor(g))
        for name, leaf in mine.items():
            error = relative_error(leaf.grad.numpy(), its[name].grad.numpy())
            assert error <= limit, f"gradient in {name}"


def either(rng, low, high):
    """Return a number or a pair, from low to high."""
    if rng.random() < 0.5:
        return int(rng.integers(low, high + 1))
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def both(value):
    return value if isinstance(value, tuple) else (value, value)


def sizes_for(rng, kernel, padding, dilation, more=7):
    """Draw the sizes of an image into which at least one window fits."""
    least = (
        max(1, d * (k - 1) + 1 - 2 * p)
        for k, p, d in zip(both(kernel), both(padding), both(dilation), strict=True)
    )
    return [n + int(rng.integers(more)) for n in least]


def geometry(rng):
    """Draw what the convolutions share, as named arguments and the shape of a weight."""
    plain = {
        "stride": either(rng, 1, 3),
        "padding": either(rng, 0, 4),
        "dilation": either(rng, 1, 3),
        "groups": int(rng.choice([1, 1, 2, 3])),
    }
    first, second = (plain["groups"] * int(rng.integers(1, 4)) for _ in range(2))
    kernel = both(either(rng, 1, 4))
    return plain, (first, second // plain["groups"], *kernel), second


@cases(40)
def test_conv2d(torch, seed):
    rng = generator("conv2d", seed)
    plain, shape, channels = geometry(rng)
    x = rng.normal(
        size=(
            rng.integers(1, 4),
            channels,
            *sizes_for(rng, shape[2:], plain["padding"], plain["dilation"]),
        )
    )
    bias = rng.normal(size=shape[0]) if rng.random() < 0.5 else None
    compare(
        torch,
        rng,
        lambda **t: F.conv2d(**t, **plain),
        lambda x, **t: torch.nn.functional.conv2d(x, **t, **plain),
        x=x,
        weight=rng.normal(size=shape),
        bias=bias,
    )


@cases(8)
def test_conv2d_3x3_of_larger_images(torch, seed):
    """The sizes at which float32 may take another algorithm than small images do."""
    rng = generator("conv2d 3x3", seed)
    shape = (rng.integers(1, 3), rng.integers(8, 33), *rng.integers(24, 70, 2))
    padding = either(rng, 0, 3)
    compare(
        torch,
        rng,
        lambda **t: F.conv2d(**t, padding=padding),
        lambda x, **t: torch.nn.functional.conv2d(x, **t, padding=padding),
        x=rng.normal(size=shape),
        weight=rng.normal(size=(rng.integers(8, 40), shape[1], 3, 3)),
    )


@cases(40)
def test_conv_transpose2d(torch, seed):
    rng = generator("conv_transpose2d", seed)
    plain, shape, outputs = geometry(rng)
    room = [max(s, d) for s, d in zip(both(plain["stride"]), both(plain["dilation"]), strict=True)]
    rest = tuple(int(rng.integers(r)) for r in room)
    # The output has at least one pixel: s (n - 1) + d (k - 1) + 1 - 2 p + rest >= 1.
    sizes = []
    for s, p, d, k, r in zip(
        both(plain["stride"]),
        both(plain["padding"]),
        both(plain["dilation"]),
        shape[2:],
        rest,
        strict=True,
    ):
        least = max(1, 1 + -(-(2 * p - d * (k - 1) - r) // s))
        sizes.append(least + int(rng.integers(5)))
    x = rng.normal(size=(rng.integers(1, 4), shape[0], *sizes))
    bias = rng.normal(size=outputs) if rng.random() < 0.5 else None
    compare(
        torch,
        rng,
        lambda **t: F.conv_transpose2d(**t, **plain, output_padding=rest),
        lambda x, **t: torch.nn.functional.conv_transpose2d(x, **t, **plain, output_padding=rest),
        x=x,
        weight=rng.normal(size=shape),
        bias=bias,
    )


def pooling(rng):
    """Draw a kernel, a stride or none, and a padding of at most half the kernel."""
    kernel = either(rng, 1, 4)
    padding = tuple(int(rng.integers(k // 2 + 1)) for k in both(kernel))
    stride = either(rng, 1, 4) if rng.random() < 0.7 else None
    return kernel, stride, padding


@cases(30)
def test_max_pool2d(torch, seed):
    """Of whole numbers from 0 to 3 most windows have several maxima: the first one counts."""
    rng = generator("max_pool2d", seed)
    kernel, stride, padding = pooling(rng)
    dilation = either(rng, 1, 2)
    sizes = sizes_for(rng, kernel, padding, dilation)
    # In less than `dilation` pixels a window can miss all of them: it has no maximum to compare.
    sizes = [max(n, d) for n, d in zip(sizes, both(dilation), strict=True)]
    x = rng.integers(0, 4, (rng.integers(1, 3), rng.integers(1, 4), *sizes)) - rng.integers(0, 8)
    how = (kernel, stride, padding, dilation, bool(rng.integers(2)))
    compare(
        torch,
        rng,
        lambda x: F.max_pool2d(x, *how),
        lambda x: torch.nn.functional.max_pool2d(x, *how),
        x=x,
    )


@pytest.mark.parametrize(("n", "kernel"), [(1, 2), (2, 3)])
def test_max_pool2d_of_less_than_a_window(torch, rng, n, kernel):
    compare(
        torch,
        rng,
        lambda x: F.max_pool2d(x, kernel, 2, ceil_mode=True),
        lambda x: torch.nn.functional.max_pool2d(x, kernel, 2, ceil_mode=True),
        x=rng.normal(size=(1, 2, n, 5)),
    )


@cases(30)
def test_avg_pool2d(torch, seed):
    rng = generator("avg_pool2d", seed)
    kernel, stride, padding = pooling(rng)
    x = rng.normal(
        size=(rng.integers(1, 3), rng.integers(1, 4), *sizes_for(rng, kernel, padding, 1))
    )
    how = (kernel, stride, padding, bool(rng.integers(2)), bool(seed % 2))
    compare(
        torch,
        rng,
        lambda x: F.avg_pool2d(x, *how),
        lambda x: torch.nn.functional.avg_pool2d(x, *how),
        x=x,
    )


@cases(12)
def test_local_response_norm(torch, seed):
    rng = generator("local_response_norm", seed)
    how = (1 + seed % 6, rng.uniform(0.1, 2), rng.uniform(0.3, 1.5), rng.uniform(0.5, 2))
    compare(
        torch,
        rng,
        lambda x: F.local_response_norm(x, *how),
        lambda x: torch.nn.functional.local_response_norm(x, *how),
        x=rng.normal(size=(2, rng.integers(1, 9), *rng.integers(1, 4, 2))),
    )


@cases(40)
def test_cross_entropy(torch, seed):
    rng = generator("cross_entropy", seed)
    classes = int(rng.integers(1, 7))
    rest = rng.integers(1, 5, 2).tolist() if rng.random() < 0.7 else []
    x = rng.normal(size=(rng.integers(1, 4), classes, *rest)) * rng.choice([1, 30])
    ignored = int(rng.choice([255, -1, 0]))  # 0 is one of the classes
    target = rng.integers(0, classes, (len(x), *rest))
    target[rng.random(target.shape) < 0.3] = ignored
    target.flat[0] = classes - 1  # at least one pixel counts, for PyTorch's mean
    if target.flat[0] == ignored:
        ignored, target[target == ignored] = 255, 0
    weight = rng.uniform(0.5, 2, classes) if rng.random() < 0.5 else None
    reduction = F.loss.REDUCTIONS[seed % 4]

    def theirs(x):
        loss = torch.nn.functional.cross_entropy(
            x,
            torch.tensor(target),
            None if weight is None else torch.tensor(weight, dtype=x.dtype),
            ignore_index=ignored,
            reduction="sum" if reduction == "batchmean" else reduction,
        )
        return loss / len(x) if reduction == "batchmean" else loss

    def ours(x):
        weights = None if weight is None else weight.astype(x.dtype)
        return F.cross_entropy(x, target, weights, ignored, reduction)

    compare(torch, rng, ours, theirs, x=x)


def test_cross_entropy_of_no_labelled_pixel_is_zero_where_pytorch_says_nan(torch):
    x, target = np.ones((1, 2, 3, 3)), np.full((1, 3, 3), 255)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(x), torch.tensor(target), ignore_index=255
    )
    assert theirs.isnan()
    ours = Tensor(x, requires_grad=True)
    loss = F.cross_entropy(ours, target)
    loss.backward()
    assert loss.item() == 0
    assert not ours.grad.numpy().any()


@cases(10)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(torch, name, seed):
    rng = generator(name, seed)
    x = rng.normal(size=rng.integers(1, 5, rng.integers(1, 5))) * rng.choice([1, 30])
    dim = int(rng.integers(-x.ndim, x.ndim))
    compare(
        torch,
        rng,
        lambda x: getattr(F, name)(x, dim),
        lambda x: getattr(torch, name)(x, dim),
        x=x,
    )


@cases(8)
def test_pad_and_crop(torch, seed):
    rng = generator("pad", seed)
    x = rng.normal(size=rng.integers(3, 6, 4))
    amounts = rng.integers(-1, 4, 2 * rng.integers(0, 5)).tolist()
    value = float(rng.normal())
    compare(
        torch,
        rng,
        lambda x: F.pad(x, amounts, value),
        lambda x: torch.nn.functional.pad(x, amounts, value=value),
        x=x,
    )
    (top, left), (height, width) = rng.integers(0, 2, 2).tolist(), rng.integers(1, 3, 2).tolist()
    compare(
        torch,
        rng,
        lambda x: F.crop(x, (height, width), (top, left)),
        lambda x: x[..., top : top + height, left : left + width],
        x=x,
    )


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "exp"])
def test_activations(torch, name):
    rng = generator(name, 0)
    x = np.concatenate([rng.normal(size=50), [0.0, -0.0, 1e-30, -40.0, 40.0 * (name != "exp")]])
    compare(torch, rng, lambda x: getattr(F, name)(x), lambda x: getattr(torch, name)(x), x=x)


@cases(6)
def test_linear(torch, seed):
    rng = generator("linear", seed)
    shape = rng.integers(1, 5, rng.integers(1, 4))
    compare(
        torch,
        rng,
        lambda **t: F.linear(**t),
        lambda x, **t: torch.nn.functional.linear(x, **t),
        x=rng.normal(size=shape),
        weight=rng.normal(size=(3, shape[-1])),
        bias=rng.normal(size=3) if seed % 2 else None,
    )


@cases(6)
def test_matmul(torch, seed):
    rng = generator("matmul", seed)
    n, k, m = rng.integers(1, 5, 3)
    first, second = [(), (2,), (3, 1)][seed % 3], [(), (2,)][seed % 2]
    compare(
        torch,
        rng,
        lambda x, y: x @ y,
        lambda x, y: x @ y,
        x=rng.normal(size=(*first, n, k)),
        y=rng.normal(size=(*second, k, m)),
    )


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_bilinear_upsampling(torch, rng, factor):
    layer = nn.ConvTranspose2d(3, 3, 2 * factor, stride=factor, bias=False, dtype=np.float64)
    nn.init.bilinear_(layer.weight)
    theirs = torch.nn.ConvTranspose2d(3, 3, 2 * factor, stride=factor, bias=False).double()
    theirs.weight.data = torch.tensor(layer.weight.numpy())
    x = rng.normal(size=(2, 3, 4, 5))
    compare(
        torch,
        rng,
        lambda x: F.conv_transpose2d(x, layer.weight.data.astype(x.dtype), stride=factor),
        lambda x: theirs.to(x.dtype)(x),
        x=x,
    )
    # PyTorch has bilinear interpolation too; inside, it is the same.
    border = factor // 2
    inside = np.s_[:, :, border:-border, border:-border]
    y = layer(Tensor(x)).numpy()[inside]  # the layer's result is longer by half a kernel each side
    whole = torch.nn.functional.interpolate(
        torch.tensor(x), scale_factor=factor, mode="bilinear", align_corners=False
    ).numpy()
    assert relative_error(y[inside], whole[inside]) <= 1e-10


# ---- a whole net ---------------------------------------------------------------------------------


class TorchFCN8s:
    """FCN-8s of one narrow convolution a stage, as published: padding 100, crops 5, 9 and 31."""

    def __init__(self, torch, state, scales):
        self.F, self.scales = torch.nn.functional, scales
        self.weights = {n: torch.tensor(a, requires_grad=True) for n, a in state.items()}

    def conv(self, name, x, **how):
        return self.F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **how)

    def up(self, name, x, stride):
        return self.F.conv_transpose2d(x, self.weights[f"{name}.weight"], stride=stride)

    def __call__(self, x):
        h, pools = x, {}
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            for i in range(1, depth + 1):
                first = (stage, i) == (1, 1)
                h = self.conv(f"conv{stage}_{i}", h, padding=100 if first else 1).relu()
            h = pools[stage] = self.F.max_pool2d(h, 2, 2, ceil_mode=True)
        h = self.conv("fc7", self.conv("fc6", h).relu()).relu()
        score = self.up("upscore2", self.conv("score_fr", h), 2)
        for stage, offset, stride, name in ((4, 5, 2, "upscore_pool4"), (3, 9, 8, "upscore8")):
            finer = self.conv(f"score_pool{stage}", pools[stage] * self.scales[stage])
            height, width = score.shape[2:]
            score = score + finer[:, :, offset : offset + height, offset : offset + width]
            score = self.up(name, score, stride)
        return score[:, :, 31 : 31 + x.shape[2], 31 : 31 + x.shape[3]]


@pytest.mark.parametrize(("dtype", "at_once"), [(np.float64, True), (np.float32, False)])
def test_fcn8s_trains_as_in_pytorch(torch, rng, at_once, dtype):
    stages = [(w,) * len(stage) for w, stage in zip((4, 5, 6, 7, 8), models.VGG16, strict=True)]
    net = models.fcn8s(
        4, stages=stages, hidden=16, dropout=0.0, at_once=at_once, learn_upsampling="intermediate"
    ).to(dtype)
    for name, parameter in net.named_parameters():
        if not name.startswith("upscore"):
            scale = (2 / np.prod(parameter.shape[1:])) ** 0.5
            parameter.data[...] = scale * rng.normal(size=parameter.shape)
    scales = {4: 0.01, 3: 0.0001} if at_once else {4: 1, 3: 1}
    theirs = TorchFCN8s(torch, net.state_dict(), scales)
    x = rng.normal(size=(2, 3, 45, 38)).astype(dtype)
    target = rng.integers(0, 4, (2, 45, 38))
    target[:, :5] = 255

    groups = optim.bias_groups(net, lr=1e-3, weight_decay=5e-4)
    ours = optim.SGD(groups, lr=1e-3, momentum=0.9)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    fixed = {"upscore8.weight"}
    its = torch.optim.SGD(
        [
            {
                "params": [
                    theirs.weights[names[id(p)]] for p in g["params"] if names[id(p)] not in fixed
                ],
                "lr": g["lr"],
                "weight_decay": g["weight_decay"],
            }
            for g in groups
        ],
        lr=1e-3,
        momentum=0.9,
    )
    limit = {np.float64: 1e-10, np.float32: 1e-5}[dtype]
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(net(Tensor(x)), target)
        expected = torch.nn.functional.cross_entropy(
            theirs(torch.tensor(x)), torch.tensor(target), ignore_index=255
        )
        assert loss.item() == pytest.approx(expected.item(), rel=limit)
        losses.append(loss.item())
        ours.zero_grad()
        its.zero_grad()
        loss.backward()
        expected.backward()
        for name, parameter in net.named_parameters():
            if name not in fixed:
                gradient = theirs.weights[name].grad.numpy()
                scale = abs(gradient).max()
                assert scale > 0, name
                assert abs(parameter.grad.numpy() - gradient).max() <= 10 * limit * scale, name
        ours.step()
        its.step()
        for name, parameter in net.named_parameters():
            expected_weights = theirs.weights[name].detach().numpy()
            assert relative_error(parameter.numpy(), expected_weights) <= limit, name
    assert losses[2] < losses[0]
