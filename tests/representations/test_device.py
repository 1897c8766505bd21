import numpy as np
import pytest
import torch
from event_samples import WIDTH, frames, random_events, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack import representations
from spiketrack.representations import device

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
devices = pytest.mark.parametrize("name", ["cpu", CUDA])
DTYPES = {"uint8": torch.uint8, "int8": torch.int8, "float16": torch.float16, "float32": torch.float32}


@devices
@given(events=random_events(), window=windows, steps=st.integers(1, 6), frame=frames(), limit=st.sampled_from([1, 90]))
@settings(max_examples=30, deadline=None)
def test_counts_equal_those_of_numpy(name, events, window, steps, frame, limit):
    tensors = device.EventTensors.of(events, name)
    for function, options in (
        ("stacked_histogram", {"limit": limit}),
        ("signed_difference", {"limit": limit}),
        ("binary_occupancy", {}),
    ):
        for dtype in ("int8" if function == "signed_difference" else "uint8", "float16", "float32"):
            expected = getattr(representations, function)(events, *window, steps, dtype=dtype, **options, **frame)
            result = getattr(device, function)(tensors, *window, steps, dtype=DTYPES[dtype], **options, **frame)
            assert result.dtype == DTYPES[dtype]
            np.testing.assert_array_equal(result.cpu().numpy(), expected)
    np.testing.assert_array_equal(
        device.polarity_histogram(tensors, *window, **frame).cpu().numpy(),
        representations.polarity_histogram(events, *window, **frame),
    )
    np.testing.assert_array_equal(
        device.microsecond_slices(tensors, -20, 60, 5, limit=limit, **frame).cpu().numpy(),
        representations.microsecond_slices(events, -20, 60, 5, limit=limit, **frame),
    )


@devices
@given(events=random_events(), window=windows, steps=st.integers(1, 6), frame=frames())
@settings(max_examples=30, deadline=None)
def test_times_equal_those_of_numpy(name, events, window, steps, frame):
    tensors = device.EventTensors.of(events, name)
    np.testing.assert_allclose(
        device.voxel_grid(tensors, *window, steps, **frame).cpu().numpy(),
        representations.voxel_grid(events, *window, steps, **frame),
        rtol=1e-5,
        atol=2e-4,
    )
    np.testing.assert_allclose(
        device.time_surface(tensors, *window, steps, tau_us=30, **frame).cpu().numpy(),
        representations.time_surface(events, *window, steps, tau_us=30, **frame),
        atol=1e-6,
    )


@devices
def test_what_is_not_on_the_sensor_is_left_out_in_any_order(name):
    columns = ([5, 1, 9, 3, 4], [0, WIDTH, 1, -1, 2], [0, 0, 1, 0, 3], [1, 1, 0, 1, 2])
    tensors = device.EventTensors(*(torch.tensor(column, device=name) for column in columns), WIDTH, 4)
    counts = device.stacked_histogram(tensors, 0, 10, 1)
    assert counts.nonzero().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert device.voxel_grid(tensors, 0, 10, 1).sum().item() == 0
    assert device.time_surface(tensors, 0, 10, 2, tau_us=10).count_nonzero().item() == 2


@devices
def test_half_precision_saturates(name):
    n = 70_000
    zeros = torch.zeros(n, dtype=torch.int64, device=name)
    tensors = device.EventTensors(zeros, zeros, zeros, zeros + 1, WIDTH, 4)
    assert device.voxel_grid(tensors, 0, 1, 1, dtype=torch.float16)[0, 0, 0, 0].item() == 65_504
    assert device.stacked_histogram(tensors, 0, 1, 1)[0, 1, 0, 0].item() == 255


def test_impossible_requests_are_refused():
    none = torch.zeros(0, dtype=torch.int64)
    tensors = device.EventTensors(none, none, none, none, WIDTH, 4)
    for arguments, options, message in (
        ((0, 0, 1), {}, "must end after"),
        ((0, 1, 0), {}, "steps must be"),
        ((0, 1, 1), {"size": (9, 9)}, "within the sensor"),
        ((0, 1, 1), {"limit": 300}, "1 .. 255"),
        ((0, 1, 1), {"dtype": torch.int64}, "dtype must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            device.stacked_histogram(tensors, *arguments, **options)
    assert device.stacked_histogram(tensors, 0, 1, 2).shape == (2, 2, 4, WIDTH)
