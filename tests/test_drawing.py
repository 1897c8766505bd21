import resource
import sys

import av
import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.drawing import (
    BACKGROUND,
    OFF_COLOURS,
    ON_COLOURS,
    VideoWriter,
    box_colour,
    contact_sheet,
    default_scale,
    draw_frame,
    draw_thumbnail,
    encode_png,
    playback_rate,
    require_drawing,
)
from spiketrack.drawing.frames import _INK, _text
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events, Window

NAMES = ("car", "bus")


def window_of(x, y, p, width=40, height=30, span_us=10_000):
    n = len(x)
    events = Events.repaired(np.arange(n), np.array(x, int), np.array(y, int), np.array(p, int), width, height)[0]
    return Window.of(events, 0, span_us)


def blank(height, width):
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def test_an_event_is_exactly_its_enlarged_pixel():
    frame = draw_frame(window_of([20, 3], [5, 10], [1, 0]), Boxes.empty(), NAMES, scale=4)
    expected = blank(120, 160)
    expected[20:24, 80:84] = ON_COLOURS[0]
    expected[40:44, 12:16] = OFF_COLOURS[0]
    assert frame.shape == (120, 160, 3)
    np.testing.assert_array_equal(frame[:90], expected[:90])  # the time stands below


def test_more_events_are_brighter_and_the_majority_decides():
    counts = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 300: 4}
    x = np.repeat(np.arange(len(counts)), list(counts))
    for p, colours in ((1, ON_COLOURS), (0, OFF_COLOURS)):
        frame = draw_frame(window_of(x, 0 * x, 0 * x + p), Boxes.empty(), NAMES, scale=1)
        assert [tuple(pixel) for pixel in frame[0, : len(counts)]] == [colours[level] for level in counts.values()]
    # pixel 0: 2 ON, 1 OFF; pixel 1: 1 ON, 2 OFF; pixel 2: 1 and 1
    frame = draw_frame(
        window_of([0, 0, 0, 1, 1, 1, 2, 2], [0] * 8, [1, 1, 0, 1, 0, 0, 0, 1]), Boxes.empty(), NAMES, scale=1
    )
    assert [tuple(pixel) for pixel in frame[0, :3]] == [ON_COLOURS[1], OFF_COLOURS[1], ON_COLOURS[0]]


def test_on_and_off_differ_in_lightness_too():
    weights = np.array([0.2126, 0.7152, 0.0722])  # luminance of linear sRGB
    on, off = ((np.array(colours) / 255) ** 2.2 @ weights for colours in (ON_COLOURS, OFF_COLOURS))
    assert (on[:4] > 1.25 * off[:4]).all()


def test_a_box_is_outlined_within_its_pixels():
    boxes = Boxes.of(10_000, [[10, 30, 40, 50]], [0], [0.87], [3])
    frame = draw_frame(window_of([], [], [], 100, 80), boxes, NAMES, scale=2)
    inside, colour = frame[60:100, 20:80], box_colour(3)
    expected = np.full_like(inside, colour)
    expected[2:-2, 2:-2] = BACKGROUND
    np.testing.assert_array_equal(inside, expected)
    caption = _text("#3 car 0.87", 13, _INK, colour)
    height, width = caption.shape[:2]
    np.testing.assert_array_equal(frame[60 - height : 60, 20 : 20 + width], caption)
    np.testing.assert_array_equal(frame[100:130, 20:80], blank(30, 60))


@pytest.mark.parametrize(
    "xyxy",
    [(0, 0, 30, 20), (70, 0, 100, 20), (0, 60, 30, 80), (85, 70, 120, 95), (-20, -20, 300, 300), (50, 40, 50, 40)],
)
def test_captions_stay_inside_the_frame(xyxy):
    boxes = Boxes.of(10_000, [xyxy], [1], [0.5], [12])
    frame = draw_frame(window_of([], [], [], 100, 80), boxes, NAMES, scale=2)
    caption = _text("#12 bus 0.50", 13, _INK, box_colour(12))
    views = np.lib.stride_tricks.sliding_window_view(frame, caption.shape)[:, :, 0]
    assert (views == caption).all(axis=(2, 3, 4)).sum() == 1


def test_captions_of_neighbours_do_not_cover_each_other():
    boxes = Boxes.of(10_000, [[10, 30, 40, 50], [12, 31, 42, 51]], [0, 0], [0.9, 0.8], [1, 2])
    frame = draw_frame(window_of([], [], [], 100, 80), boxes, NAMES, scale=2)
    for text, track_id in (("#1 car 0.90", 1), ("#2 car 0.80", 2)):
        caption = _text(text, 13, _INK, box_colour(track_id))
        views = np.lib.stride_tricks.sliding_window_view(frame, caption.shape)[:, :, 0]
        assert (views == caption).all(axis=(2, 3, 4)).any()


def test_boxes_off_the_sensor_are_not_drawn_and_detections_have_the_colour_of_their_class():
    window = window_of([5], [5], [1], 100, 80)
    away = Boxes.of(10_000, [[-50, 10, -10, 20], [100, 0, 120, 20], [0, 90, 10, 95]], [0, 0, 0], [0.9] * 3, [1, 2, 3])
    bare = draw_frame(window, Boxes.empty(), NAMES, scale=2)
    np.testing.assert_array_equal(draw_frame(window, away, NAMES, scale=2), bare)
    detection = draw_frame(window, Boxes.of(10_000, [[10, 30, 40, 50]], [1], [0.87]), NAMES, scale=2)
    assert tuple(detection[60, 79]) == box_colour(1)
    unnamed = draw_frame(window, Boxes.of(10_000, [[10, 30, 40, 50]], [9], [0.87]), NAMES, scale=2)
    caption = _text("class 9 0.87", 13, _INK, box_colour(9))
    np.testing.assert_array_equal(unnamed[60 - len(caption) : 60, 20 : 20 + caption.shape[1]], caption)


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(304, 240, 3), (640, 480, 1), (1280, 720, 1), (34, 34, 19), (260, 346, 2), (1, 1, 640)],
)
def test_small_sensors_are_enlarged(width, height, scale):
    assert default_scale(width, height) == scale
    frame = draw_frame(window_of([], [], [], width, height), Boxes.empty(), NAMES)
    assert frame.shape == (height * scale, width * scale, 3)


def test_the_time_of_a_window_is_legible_in_micro_and_milliseconds():
    for span_us, words in ((10_000, "0.010 s  |  10 ms window"), (100, "0.000100 s  |  100 us window  |  slow")):
        note = "slow" if span_us == 100 else ""
        frame = draw_frame(window_of([], [], [], 400, 300, span_us), Boxes.empty(), NAMES, scale=1, note=note)
        tile = _text(words, 13, (214, 219, 228), BACKGROUND)
        np.testing.assert_array_equal(frame[-len(tile) :, : tile.shape[1]], tile)


def test_thumbnails_count_large_sensors_on_fewer_pixels():
    large = draw_thumbnail(window_of([640, 641, 642], [0, 0, 3], [1, 1, 0], 1280, 720), Boxes.empty(), NAMES, side=640)
    assert large.shape == (360, 640, 3)
    assert tuple(large[0, 320]) == ON_COLOURS[1]
    assert tuple(large[1, 321]) == OFF_COLOURS[0]
    assert draw_thumbnail(window_of([], [], [], 304, 240), Boxes.empty(), NAMES).shape == (480, 608, 3)


def test_contact_sheet_tiles_row_by_row():
    frames = [np.full((2, 3, 3), 40 * i, np.uint8) for i in range(1, 4)]
    sheet = contact_sheet(frames, columns=2, gap=1)
    assert sheet.shape == (5, 7, 3)
    assert [sheet[0, 0, 0], sheet[1, 6, 0], sheet[4, 2, 0]] == [40, 80, 120]
    assert tuple(sheet[4, 6]) == BACKGROUND
    assert tuple(sheet[2, 0]) == tuple(sheet[0, 3]) != BACKGROUND
    with pytest.raises(SettingsError, match="frames and columns"):
        contact_sheet([])


@pytest.mark.parametrize(
    ("slice_us", "fps", "speed", "words"),
    [
        (50_000, 20, 1, "real time"),
        (100_000, 10, 1, "real time"),
        (100, 30, 0.003, "slowed down 333x"),
        (16_000, 30, 0.48, "slowed down 2.08x"),
        (1_000_000, 30, 30, "30x real time"),
    ],
)
def test_playback_is_real_time_where_a_player_can_follow(slice_us, fps, speed, words):
    playback = playback_rate(slice_us)
    assert (playback.fps, playback.speed, str(playback)) == (fps, pytest.approx(speed), words)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate), stream.codec_context.name


def write(path, frames):
    with VideoWriter(path, 20) as video:
        for frame in frames:
            video.append(frame)


def interrupted(items):
    yield from items
    raise KeyboardInterrupt


COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), BACKGROUND]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_decodes_to_its_frames(tmp_path, monkeypatch, codec):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 20) as video:
        for colour in COLOURS:
            video.append(np.full((41, 63, 3), colour, np.uint8))
        assert not path.exists()
    assert (video.codec, video.frames) == (codec, 5)
    frames, fps, name = decoded(path)
    assert (len(frames), fps, name) == (5, 20.0, "h264" if codec == "libx264" else "mpeg4")
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (42, 64, 3)  # padded to even sides
        np.testing.assert_allclose(frame[4:36, 4:56].mean(axis=(0, 1)), colour, atol=12)
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.mp4"]


def test_rates_of_any_time_step_can_be_written(tmp_path):
    for slice_us in (33_333, 16_667, 41_708, 99_999):
        with VideoWriter(tmp_path / "video.mp4", playback_rate(slice_us).fps) as video:
            video.append(blank(20, 20))
            video.append(blank(20, 20))
        assert decoded(tmp_path / "video.mp4")[1] == pytest.approx(1e6 / slice_us, rel=1e-3)


def test_a_broken_or_empty_video_leaves_the_older_one(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"older")
    with VideoWriter(path, 20) as empty:
        pass
    assert empty.frames == 0
    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted([blank(20, 20)]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"older"


def test_frames_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "video.mp4"
    with pytest.raises(SettingsError, match="outside of"):
        VideoWriter(path, 20).append(blank(20, 20))
    for frame in (blank(20, 22), blank(20, 20)[:, :, 0], blank(20, 20).astype(float), blank(0, 20)):
        with pytest.raises(SettingsError, match=r"video\.mp4"):
            write(path, [blank(20, 20), frame])
    with pytest.raises(SettingsError, match="exceeds"):
        write(path, [blank(2, 20_000)])
    with pytest.raises(SettingsError, match="frames per second"):
        VideoWriter(path, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, share):
    frames = np.random.default_rng(0).integers(0, 256, (6, 240, 320, 3), dtype=np.uint8)
    path = tmp_path / "video.mp4"
    write(path, frames)
    size = path.stat().st_size
    path.unlink()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), old[1]))
    try:
        with pytest.raises(RecordingError, match=r"video\.mp4: the video cannot be written"):
            write(path, frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RecordingError, match=r"missing/video\.mp4"):
        write(tmp_path / "missing" / "video.mp4", [])


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    require_drawing(video=True)
    monkeypatch.setitem(sys.modules, "av", None)
    require_drawing()
    with pytest.raises(SettingsError, match=r'pip install "spiketrack\[video\]"'):
        VideoWriter(tmp_path / "video.mp4", 20)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SettingsError, match=r'Pillow.*pip install "spiketrack\[video\]"'):
        require_drawing()


def test_png_round_trip():
    from io import BytesIO

    from PIL import Image

    image = contact_sheet([np.full((8, 8, 3), colour, np.uint8) for colour in COLOURS])
    for colours in (None, 16):
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(encode_png(image, colours))).convert("RGB")), image)
