import on_cpu
import pytest

from minifcn import backend


@pytest.fixture(params=on_cpu.ORDERS)
def every_order(request):
    """An order in which the threads of a kernel run, for each in turn."""
    with on_cpu.order(request.param):
        yield request.param


@pytest.fixture
def second(standin):
    """A GPU that is not the thread's current one; on that one is no memory left."""
    backend.probe_cuda()
    pool = standin.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=1)
    return "cuda:1"
