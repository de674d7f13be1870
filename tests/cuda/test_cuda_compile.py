"""Every kernel compiles for every kind of GPU, and keeps its numbers in registers."""

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
REGISTERS = 65536  # of a multiprocessor


def for_tensor_cores(file):
    return '#include "conv.cuh"' in (launch.FOLDER / file).read_text("utf-8")


def compiled(file, architecture, constants):
    return nvrtc.compiled(launch.text(file), architecture, tuple(launch._options(constants)))


def test_no_file_is_forgotten():
    assert sorted(f"{file}.cu" for file in WAYS) == launch.kernel_files()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", launch.kernel_files())
def test_compiles_without_spills(file, architecture, request):
    """The most demanding way for all GPUs, and each of the others for one of them."""
    if for_tensor_cores(file) and architecture < conv.CAPABILITY:
        with pytest.raises(nvrtc.CompileError, match=rf"(?s)sm_{architecture}.*requires .*sm_80"):
            compiled(file, architecture, WAYS[file.removesuffix(".cu")][-1])
        return
    *others, last = WAYS[file.removesuffix(".cu")]
    turn = ARCHITECTURES.index(architecture) - for_tensor_cores(file)
    for constants in [*others[turn :: len(ARCHITECTURES) - for_tensor_cores(file)], last]:
        kernels = compiled(file, architecture, constants)
        assert len(kernels) == launch.text(file).count("__global__")
        for name, kernel in kernels.items():
            assert (kernel.spilled, kernel.local) == (0, 0), (name, constants)
            threads = 2 * 128 if "conv2d" in name else launch.THREADS  # two blocks at once
            assert kernel.registers * threads <= REGISTERS, (name, constants)
            told = f"registers of {file} {name}", kernel.registers
            request.node.user_properties.append(told)


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
