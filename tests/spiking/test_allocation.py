import gc
import io
import threading

import pytest
import torch

from spiketrack.spiking.allocation import HUGE_PAGE, LEAST_POOLED, PagePool, empty_strided
from spiketrack.spiking.lif import PLIF_NEURON, lif


def test_a_region_comes_back_when_the_last_view_is_gone():
    pool = PagePool()
    whole = torch.frombuffer(pool.buffer(HUGE_PAGE + 8), dtype=torch.uint8)
    assert (pool.bytes_in_use, pool.bytes_free) == (2 * HUGE_PAGE, 0)
    place, view = whole.data_ptr(), whole[5:]
    del whole
    gc.collect()
    assert (pool.bytes_in_use, pool.bytes_free) == (2 * HUGE_PAGE, 0)
    del view
    assert (pool.bytes_in_use, pool.bytes_free) == (0, 2 * HUGE_PAGE)
    again = torch.frombuffer(pool.buffer(HUGE_PAGE + 64), dtype=torch.uint8)
    assert again.data_ptr() == place


def test_what_lies_free_is_bounded_by_the_peak_in_use():
    pool = PagePool()
    for pages in (1, 2, 3, 4, 5):  # each size once: nothing can be reused
        buffer = pool.buffer(pages * HUGE_PAGE)
        del buffer
        assert pool.bytes_in_use == 0
        assert pool.bytes_free <= pages * HUGE_PAGE
    assert pool.bytes_free == 5 * HUGE_PAGE


def test_tensors_on_the_pool_are_ordinary():
    shape = (2, 3, LEAST_POOLED // 8)
    ours, usual = empty_strided(shape, (1, 2, 6), torch.float32), torch.empty_strided(shape, (1, 2, 6))
    assert (ours.shape, ours.stride(), ours.dtype, ours._is_view()) == (
        usual.shape,
        usual.stride(),
        usual.dtype,
        usual._is_view(),
    )
    assert ours.data_ptr() % 64 == 0
    ours.fill_(3)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), ours.clone())


def test_two_live_tensors_never_share_pages_on_four_threads():
    pool, wrong = PagePool(), []

    def work(number):
        for _ in range(200):
            mine = torch.frombuffer(pool.buffer(64), dtype=torch.uint8)
            mine.fill_(number)
            if not (mine == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.bytes_in_use == 0
    assert pool.bytes_free <= 4 * 2 * HUGE_PAGE  # a thread's last buffer ends when the next one is there


@pytest.mark.parametrize("grad", [True, False])
def test_large_neurons_on_reused_pages_are_the_small_ones(grad):
    x = torch.randn(2, 3, LEAST_POOLED // 8, generator=torch.Generator().manual_seed(0)).requires_grad_(grad)
    wanted = [lif(part, None, 0.5, PLIF_NEURON) for part in x.split(4096, dim=2)]
    for _ in range(3):  # the second and third time on pages that hold other values
        spikes, rest = lif(x, None, 0.5, PLIF_NEURON)
        assert torch.equal(spikes, torch.cat([s for s, _ in wanted], dim=2))
        assert torch.equal(rest, torch.cat([r for _, r in wanted], dim=1))
        rest = spikes = None
