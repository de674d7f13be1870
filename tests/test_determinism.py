"""The same seed gives the same bits on the same machine, with any number of threads.

The number of threads is settled when a process begins, so each number has a process of its own,
which trains some nets and prints checksums of all that came out.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import data, models
from minifcn.kernels import gemm
from minifcn.kernels.threads import blas, num_threads
from minifcn.loop import Training
from minifcn.pretrain import CLASSIFY, fit_classifier
from minifcn.recipes import Recipe

# The small net is of the kinds of the demo. The others have what it lacks: wide layers, which are
# multiplied in other ways (Winograd's along both axes, large weights in place); local response
# normalisation, groups, overlapping pooling; and fully connected layers, with dropout in all.
NETS = {
    "small": (models.fcn8s, "small", {}, Recipe(steps=20, lr=0.02, batch_size=4, max_norm=3.0)),
    "vgg16": (
        models.fcn8s,
        "vgg16",
        {"width": 0.25, "padding": "smallest"},
        Recipe(steps=2, lr=0.01, batch_size=2),
    ),
    "caffenet": (
        models.fcn32s,
        "caffenet",
        {"width": 0.2, "padding": "smallest"},
        Recipe(steps=2, lr=0.01, batch_size=2),
    ),
}


def checksum(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def trained(name):
    """Return a checksum of a net's weights and losses after some steps."""
    build, backbone, options, recipe = NETS[name]
    model = build(4, backbone, rng=np.random.default_rng(0), **options)
    loader = data.Loader(data.shapes("train", length=16), recipe.batch_size, flip=True)
    losses = [step.loss for step in Training(model, loader, recipe).steps()]
    return checksum([*(p.data for p in model.parameters()), np.array(losses)])


def classified():
    """Return a checksum of a classifier's weights after some steps."""
    model = models.vgg16(4, width=0.1, image_size=32, rng=np.random.default_rng(0))
    recipe = Recipe(**{**vars(CLASSIFY), "steps": 2, "batch_size": 8})
    list(fit_classifier(model, data.shapes("train", length=16), recipe))
    return checksum(p.data for p in model.parameters())


def multiplied():
    """Return a checksum of matrix products of many sizes, and of those that BLAS alone makes."""
    rng = np.random.default_rng(0)
    ours, plain = [], []
    for _ in range(40):
        rows, depth, columns = (int(2 ** rng.uniform(0, 10)) for _ in range(3))
        x, w = (rng.standard_normal((n, depth), dtype=np.float32) for n in (rows, columns))
        ours += [F.linear(x, w), F.matmul(x, w.T), F.matmul(x.T.copy().T, w.T.copy())]
        plain.append(x @ w.T)
    return checksum(ours), checksum(plain)


def all_checksums(of_blas):
    """Return what a process of the test finds out, with a number of threads of BLAS."""
    for library in blas().lib_controllers:
        library.set_num_threads(of_blas)
    threads = [num_threads(), *(library.num_threads for library in blas().lib_controllers)]
    found = {name: trained(name) for name in NETS}
    found["classifier"], (found["products"], plain) = classified(), multiplied()
    return {"same": found, "threads": threads, "products of BLAS": plain}


def test_any_number_of_threads_makes_the_same_bits(record_count):
    """Two of the processes have more threads than this machine may have processors."""
    here = Path(__file__).parent
    found = []
    for ours, of_blas in ((1, 1), (2, 3), (4, 2)):
        code = f"import json, test_determinism as t; print(json.dumps(t.all_checksums({of_blas})))"
        paths = os.pathsep.join(map(str, (here, here.parent)))
        changed = {"MINIFCN_NUM_THREADS": str(ours), "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | changed,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert [tuple(each["threads"]) for each in found] == [(1, 1), (2, 3), (4, 2)]
    for each in found[1:]:
        assert each["same"] == found[0]["same"]
    record_count("thread counts compared bit by bit", len(found))


def test_this_process_makes_them_too():
    """The first number above is not a property of fresh processes."""
    assert trained("small") == trained("small")


@pytest.mark.parametrize("stack", [(), (3,)], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(300, 70), (70, 300), (1, 500), (500, 1), (3, 2)])
def test_a_product_by_shares_is_the_product(rng, stack, rows, columns):
    a = rng.standard_normal((*stack, rows, 90))
    b = rng.standard_normal((90, columns))
    np.testing.assert_allclose(gemm.product(a, b), a @ b, rtol=1e-12, atol=1e-12)
    assert gemm.product(a[..., :0, :], b).shape == (*stack, 0, columns)
