import on_cpu
import pytest


@pytest.fixture(params=on_cpu.ORDERS)
def every_order(request):
    """An order in which the threads of a kernel run, for each in turn."""
    with on_cpu.order(request.param):
        yield request.param
