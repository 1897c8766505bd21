"""The read-out against queues worked out by hand."""

import numpy as np
import pytest

from spiketrack.simulation.readout import Readout, ReadoutSettings, Requests


def requests(*events):
    """Of (time, row) pairs; x counts them."""
    t, y = (np.array(column) for column in zip(*events, strict=True)) if events else (np.empty(0), np.empty(0))
    return Requests(
        t.astype(np.float64), np.arange(len(t), dtype=np.uint16), y.astype(np.uint16), np.ones(len(t), np.uint8)
    )


def read(settings, *events, until=np.inf):
    """(x, time) of what is read, and the number lost."""
    readout = Readout(ReadoutSettings(**settings), 8, [0])
    out = readout.read(requests(*events), until)
    return list(zip(out.x.tolist(), out.t.tolist(), strict=True)), readout.lost


def test_the_default_only_sorts():
    assert read({}, (30, 0), (10.5, 1), (20, 0)) == ([(1, 10.5), (2, 20), (0, 30)], 0)


def test_a_bounded_rate_spaces_the_events():
    # 100,000 events/s: one each 10 us
    out, lost = read({"max_rate": 1e5}, (0, 0), (1, 0), (2, 1), (50, 0))
    assert out == [(0, 0), (1, 10), (2, 20), (3, 50)]
    assert lost == 0


def test_what_waits_too_long_is_lost_and_counted():
    # 100 events at once, 10 us each, a wait of at most 95 us: those of 0, 10, .. 90 us are read, 90 are lost
    out, lost = read({"max_rate": 1e5, "longest_wait_us": 95.0}, *[(5.0, 0)] * 100)
    assert [t for _, t in out] == [5.0 + 10 * k for k in range(10)]
    assert lost == 90


def test_the_throughput_saturates():
    # 1 M events in 1 s at most 100,000/s: the read-out is never idle, the rest is lost but for the last waits
    readout = Readout(ReadoutSettings(max_rate=1e5, longest_wait_us=1000.0), 8, [0])
    count = 0
    for k in range(100):
        t = 10_000 * k + 1.0 * np.arange(1, 10_001)
        rest = np.zeros(10_000, np.uint16)
        count += len(readout.read(Requests(t, rest, rest, rest.astype(np.uint8)), 10_000.0 * (k + 1)).t)
    late = len(readout.read(requests(), np.inf).t)
    assert count == 100_000
    assert 99 <= late <= 101
    assert readout.lost == 1_000_000 - count - late


def test_events_of_a_row_that_wait_together_share_a_time():
    # row 2 is read at 0 (its event of 0 us) for 10 us; at 10 us row 5 waits longest, with three; then row 2's other
    events = ((0, 2), (1, 5), (2, 2), (3, 5), (9, 5), (11, 5))
    out, _ = read({"row_us": 10.0}, *events)
    assert out == [(0, 0), (1, 10), (3, 10), (4, 10), (2, 20), (5, 30)]


def test_a_long_row_takes_the_time_of_its_events():
    # 4 us an event: five events of a row hold the read-out for 20 us, although a row takes at least 10 us
    out, _ = read({"row_us": 10.0, "max_rate": 250_000.0}, *[(0, 1)] * 5, (1, 2), (2, 3))
    assert [t for _, t in out] == [0] * 5 + [20, 30]


def test_what_is_not_due_waits_for_the_next_call():
    readout = Readout(ReadoutSettings(row_us=10.0), 8, [0])
    first = readout.read(requests((0, 0), (1, 1), (2, 2)), 10.0)
    second = readout.read(requests((10.5, 1), (11, 2)), 25.0)
    last = readout.read(requests(), np.inf)
    assert first.t.tolist() == [0, 10]
    assert second.t.tolist() == [20, 20]
    assert second.y.tolist() == [2, 2]
    assert last.t.tolist() == [30]


@pytest.mark.parametrize("settings", [{"row_us": 3.0}, {"max_rate": 4e5}, {"row_us": 1.0, "max_rate": 4e5}])
def test_pieces_equal_the_whole(settings):
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 1000, 600))
    y = rng.integers(0, 8, 600)
    settings = ReadoutSettings(longest_wait_us=100.0, **settings)

    def pieces(cuts):
        readout, out = Readout(settings, 8, [0]), []
        for low, high in zip([-np.inf, *cuts], [*cuts, np.inf], strict=True):
            inside = (t > low) & (t <= high)
            part = Requests(
                t[inside], np.flatnonzero(inside).astype(np.uint16), y[inside].astype(np.uint16), inside[inside]
            )
            out.append(readout.read(part._replace(kind=part.kind.astype(np.uint8)), high))
        return np.concatenate([o.t for o in out]), np.concatenate([o.x for o in out]), readout.lost

    whole, cut = pieces([]), pieces([100.0, 100.5, 420.0, 800.0])
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-3)  # a tick
    np.testing.assert_array_equal(cut[1], whole[1])
    assert cut[2] == whole[2]


def test_jitter_is_a_half_normal_delay():
    # mean sqrt(2 / pi) sigma, never negative
    readout = Readout(ReadoutSettings(jitter_us=50.0), 8, [1])
    delays = readout.read(requests(*[(0, 0)] * 20_000), np.inf).t
    assert delays.min() >= 0
    assert delays.mean() == pytest.approx(50 * np.sqrt(2 / np.pi), abs=5 * 50 * 0.603 / np.sqrt(20_000))
    assert (np.diff(delays) >= 0).all()


def test_no_requests_no_events():
    assert read({"row_us": 1.0, "max_rate": 1e6}) == ([], 0)
    assert read({}) == ([], 0)
