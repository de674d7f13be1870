"""Every kernel compiles for every kind of GPU, and keeps its numbers in registers."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import nvrtc
import pytest
from test_cuda_kernels import CONSTANTS

from minifcn.kernels.cuda import conv, launch

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed"),
]

# Turing; Ampere (A100, RTX 30); Ada (RTX 40); Hopper (H100); Blackwell (B200, RTX 50)
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# In what ways a file's constants are set; last the one that takes the most registers.
WAYS = {
    **CONSTANTS,
    "conv": [conv.constants_for(n, "tf32", back) for n in conv.ROWS for back in (True, False)],
    "conv16": [
        conv.constants_for(n, name, back)
        for n in conv.ROWS
        for name in ("bf16", "fp16")
        for back in (True, False)
    ],
}
HOPPER = 90  # for which conv.py's numbers were chosen
BY_CUPY = "-ftz=true", "--device-as-default-execution-space"  # flags that CuPy 14 adds
REGISTERS = 65536  # of a multiprocessor
AT_ONCE = 8  # registers of a thread are given out in so many
# For these, conv.TOGETHER promises one block more than there are registers for.
CROWDED = {("conv", "conv2d_weight", architecture, 32) for architecture in (80, 86, 89)}


def for_tensor_cores(file):
    return '#include "conv.cuh"' in (launch.FOLDER / file).read_text("utf-8")


def compiled(file, architecture, constants):
    options = *launch._options(constants), *BY_CUPY
    return nvrtc.compiled(launch.text(file), architecture, options)


def check_registers(file, architecture, constants):
    """Nothing spills, and so many blocks as are promised run on a multiprocessor at once."""
    kernels = compiled(f"{file}.cu", architecture, constants)
    assert len(kernels) == launch.text(f"{file}.cu").count("__global__")
    for name, kernel in kernels.items():
        where = file, name, architecture, constants
        assert (kernel.spilled, kernel.local) == (0, 0), where
        threads, together = launch.THREADS, 1
        if "conv2d" in name:
            plan = conv.Plan((1, 1), constants)
            threads, together = plan.threads, plan.together
        crowded = (file, name, architecture, constants.get("COLUMNS")) in CROWDED
        taken = -(-kernel.registers // AT_ONCE) * AT_ONCE * threads
        assert taken * (together - crowded) <= REGISTERS, where
        assert not crowded or taken * together > REGISTERS, where
    return kernels


def test_no_file_is_forgotten():
    assert sorted(f"{file}.cu" for file in WAYS) == launch.kernel_files()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", WAYS)
def test_compiles_without_spills(file, architecture, request):
    """The most demanding way for all GPUs; each of the others for one of them.

    Of convolution that one is Hopper. `test_every_way_for_every_gpu` leaves nothing out.
    """
    tensor_cores = for_tensor_cores(f"{file}.cu")
    if tensor_cores and architecture < conv.CAPABILITY:
        with pytest.raises(nvrtc.CompileError, match=rf"(?s)sm_{architecture}.*requires .*sm_80"):
            compiled(f"{file}.cu", architecture, WAYS[file][-1])
        return
    *others, last = WAYS[file]
    if tensor_cores:
        others = others if architecture == HOPPER else []
    else:
        others = others[ARCHITECTURES.index(architecture) :: len(ARCHITECTURES)]
    with ThreadPoolExecutor(2) as pool:  # NVRTC works outside of Python's lock
        found = pool.map(partial(check_registers, file, architecture), [*others, last])
        for name, kernel in itertools.chain.from_iterable(each.items() for each in found):
            told = f"registers of {file}.cu {name}", kernel.registers
            request.node.user_properties.append(told)


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", WAYS)
def test_every_way_for_every_gpu(file, architecture):
    if for_tensor_cores(f"{file}.cu") and architecture < conv.CAPABILITY:
        pytest.skip("no tensor cores for these precisions")
    for constants in WAYS[file]:
        check_registers(file, architecture, constants)


# ---- the means themselves ------------------------------------------------------------------------


def test_spills_are_seen():
    text = """
    extern "C" __global__ void __launch_bounds__(1024) crowded(const float* x, float* y) {
      float a[100];
    #pragma unroll
      for (int i = 0; i < 100; ++i) a[i] = x[i * 1024 + threadIdx.x];
      for (int k = 0; k < 5; ++k)
    #pragma unroll
        for (int i = 0; i < 100; ++i) a[i] = a[i] * a[(i + 7) % 100] + a[3 * i % 100];
    #pragma unroll
      for (int i = 0; i < 100; ++i) y[i * 1024 + threadIdx.x] = a[i];
    }
    extern "C" __global__ void indexed(float* x, int n) {
      __shared__ float room[7];
      float a[100];
      for (int i = 0; i < n; ++i) a[i] = x[i];
      room[threadIdx.x] = 1;
      __syncthreads();
      for (int i = 0; i < n; ++i) x[i] = a[n - i] + room[n];
    }"""
    kernels = nvrtc.compiled(text, 90)
    assert kernels["crowded"].registers == REGISTERS // 1024
    assert kernels["crowded"].spilled > 0
    assert kernels["indexed"].local == 400
    assert kernels["indexed"].shared == 28
    assert kernels["indexed"].spilled == 0


def test_mistakes_are_named_with_their_line():
    with pytest.raises(nvrtc.CompileError, match=r'sm_80: .*\(2\): error: identifier "y"'):
        nvrtc.compiled('extern "C" __global__ void f(int* x) {\n  x[0] = y;\n}', 80)


def test_constants_reach_the_text():
    text = '#if N != 3\n#error N is not 3\n#endif\nextern "C" __global__ void f() {}'
    assert list(nvrtc.compiled(text, 90, ("-DN=3",))) == ["f"]
    with pytest.raises(nvrtc.CompileError, match="N is not 3"):
        nvrtc.compiled(text, 90, ("-DN=4",))
