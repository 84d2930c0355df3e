"""Videos: frames and their times come in as a player counts them, and go out at the same times."""

import builtins
import csv
import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from datamodules.base import DataError
from datamodules.images.files import Reading
from experiments import predict
from experiments.predict.classification import ClassificationResult
from experiments.predict.files import PredictionFiles
from experiments.predict.media import VIDEO_SUFFIXES, Failure, Photo, Source, find_sources, read_photos
from experiments.predict.video import VideoWriter, read_video, video_info
from hrnet import HRNet
from tasks import ClassificationTask, SegmentationTask

av = pytest.importorskip("av")

UNEVEN = (0.0, 0.033, 0.066, 0.1, 0.5, 0.6, 1.2, 1.233, 2.0, 2.5, 3.3, 5.4)  # as a screen recorder writes them
MILLISECONDS = Fraction(1, 1000)


def record(path, times, codec="libx264", *, tick=MILLISECONDS, rate=30, container=None, sound_from=None) -> Path:
    """A video of grey frames, 12 levels brighter from each to the next, at the times given."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = tick
        sound = None if sound_from is None else file.add_stream("aac", rate=8000, layout="mono")
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 12 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound:
            for start in range(0, 8000 * 4, 1000):
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
                piece.rate, piece.pts, piece.time_base = 8000, round(8000 * sound_from) + start, Fraction(1, 8000)
                file.mux(sound.encode(piece))
            file.mux(sound.encode())
    return path


def stamps(path: Path) -> list[float]:
    """Times of the frames as the file has them, by PyAV alone."""
    with av.open(str(path)) as file:
        return [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]


def seconds(path: Path) -> float:
    """How long a player says the file is."""
    with av.open(str(path)) as file:
        return file.duration / 1e6


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
def test_uneven_times_are_read_as_written(ending, codec, tmp_path):
    frames = list(read_video(record(tmp_path / f"clip.{ending}", UNEVEN, codec)))
    assert [frame.time for frame in frames] == pytest.approx(UNEVEN, abs=1e-6)
    np.testing.assert_allclose([frame.image.mean() for frame in frames], 12 * np.arange(len(UNEVEN)), atol=6)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_file_whose_stamps_begin_later_begins_at_zero(ending, tmp_path):
    clip = record(tmp_path / f"clip.{ending}", [2.5 + time for time in UNEVEN])
    assert stamps(clip)[0] == pytest.approx(2.5)
    assert [frame.time for frame in read_video(clip)] == pytest.approx(UNEVEN, abs=1e-6)


def test_pictures_that_come_after_the_sound_keep_their_distance_to_it(tmp_path):
    clip = record(tmp_path / "clip.mkv", [5 + time for time in UNEVEN], sound_from=3)
    assert [frame.time for frame in read_video(clip)] == pytest.approx([2 + time for time in UNEVEN], abs=0.2)
    assert next(read_video(clip)).time > 1.8


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0, 64, 0), "right top"),
        ((-1, 0, 0, -1, 96, 64), "right bottom"),
        ((0, -1, 1, 0, 0, 96), "left bottom"),
    ],
)
def test_a_video_is_turned_as_a_player_shows_it(matrix, corner, tmp_path):
    """An MP4 says in its track's head that (x, y) is shown at (a x + c y + tx, b x + d y + ty)."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48] = 255  # the left top
    with VideoWriter(tmp_path / "clip.mp4", Fraction(10)) as writer:
        writer.write(image)
    content = (tmp_path / "clip.mp4").read_bytes()
    a, b, c, d, tx, ty = (value << 16 for value in matrix)
    at = content.index(b"tkhd") + 4 + 40
    head = struct.pack(">9i", a, b, 0, c, d, 0, tx, ty, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content[:at] + head + content[at + 36 :])
    ((frame, _),) = read_video(tmp_path / "turned.mp4")
    assert frame.shape == ((64, 96, 3) if matrix[0] else (96, 64, 3))
    rows, columns = (frame[..., 0] > 127).nonzero()
    height, width = frame.shape[:2]
    found = f"{'left' if columns.mean() < width / 2 else 'right'} {'top' if rows.mean() < height / 2 else 'bottom'}"
    assert found == corner


def test_frames_without_stamps_come_at_the_average_rate(tmp_path):
    clip = record(tmp_path / "raw.mp4", [i / 12 for i in range(6)], tick=Fraction(1, 12), rate=12, container="h264")
    with av.open(str(clip)) as file:
        assert {frame.pts for frame in file.decode(video=0)} == {None}
    times = [frame.time for frame in read_video(clip)]
    assert times == pytest.approx([i / video_info(clip).rate for i in range(6)], abs=1e-6)


def test_times_rise_though_the_stamps_do_not(tmp_path):
    steps = [i / 12 for i in range(8)]
    clip = record(tmp_path / "clip.avi", steps, tick=Fraction(1, 12), rate=12)  # AVI does not know of B-frames
    assert stamps(clip) != sorted(stamps(clip))
    times = [frame.time for frame in read_video(clip)]
    assert len(times) == 8
    assert (np.diff(times) > 0.05).all()
    assert times[-1] < 1


@pytest.mark.parametrize("rate", [Fraction(12), Fraction(30), Fraction(24000, 1001), Fraction(2, 3)])
def test_frames_without_times_are_written_evenly(rate, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", rate) as writer:
        for number in range(7):
            writer.write(np.full((64, 96, 3), 30 * number, np.uint8))
    assert video_info(tmp_path / "clip.mp4") == (7, rate)
    frames = list(read_video(tmp_path / "clip.mp4"))
    assert [frame.time for frame in frames] == pytest.approx([float(i / rate) for i in range(7)], abs=1e-6)
    np.testing.assert_allclose([frame.image.mean() for frame in frames], 30 * np.arange(7), atol=6)
    assert seconds(tmp_path / "clip.mp4") == pytest.approx(float(7 / rate), abs=1e-3)


def test_times_are_written_to_microseconds_and_the_length_is_right(tmp_path):
    times = np.random.default_rng(0).uniform(0.001, 1.5, 20).cumsum().round(6).tolist()
    with VideoWriter(tmp_path / "clip.mp4", Fraction(10)) as writer:
        for time in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), time)
    assert stamps(tmp_path / "clip.mp4") == pytest.approx(times, abs=6e-6)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        stream = file.streams.video[0]
        end = float((stream.start_time + stream.duration) * stream.time_base)
    assert end == pytest.approx(times[-1] + 0.1, abs=1e-3)


def test_a_video_has_the_limit_of_images(tmp_path):
    clip = record(tmp_path / "clip.mp4", UNEVEN)
    height, width, _ = next(read_video(clip)).image.shape
    assert len(list(read_video(clip, height * width))) == len(UNEVEN)
    reading = Reading(pixel_limit=height * width - 1)
    (failure,) = read_photos([Source(clip, "clip")], reading=reading)
    assert isinstance(failure, Failure)
    assert f"clip.mp4 has {height} x {width} pixels" in str(failure.error)


def test_equal_times_are_no_dead_end(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", Fraction(10)) as writer:
        for time in (0.0, 0.0, 0.5, 0.4, 1.0):
            writer.write(np.zeros((33, 35, 3), np.uint8), time)
    frames = list(read_video(tmp_path / "clip.mp4"))
    assert [frame.time for frame in frames] == pytest.approx([0, 0, 0.5, 0.5, 1], abs=1e-4)
    assert frames[0].image.shape == (32, 34, 3)


def test_an_incomplete_video_has_no_name(tmp_path):
    def interrupted() -> None:
        with VideoWriter(tmp_path / "clip.mp4", Fraction(10)) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.part.mp4"]
    assert len(list(read_video(tmp_path / "clip.part.mp4"))) == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), num_classes=3).eval()
    path = tmp_path_factory.mktemp("task") / "bare.ckpt"
    tasks.save_task(task, path)
    return path


def test_overlay_and_tables_have_the_times_of_the_video(checkpoint, tmp_path):
    clip = record(tmp_path / "clip.mp4", UNEVEN)
    words = [str(checkpoint), str(clip), "--output", str(tmp_path / "out"), "--batch_size", "5"]
    assert not predict.main([*words, "--save", "overlays", "csv", "json", "masks"])
    overlay = tmp_path / "out" / "overlays" / "clip.mp4"
    assert stamps(overlay) == pytest.approx(UNEVEN, abs=1e-5)
    assert 5.4 < seconds(overlay) < 6
    assert next(read_video(overlay)).image.shape[0] >= 64 + 20  # the legend below
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["image", "frame", "time"]
    by_frame = {int(row["frame"]): float(row["time"]) for row in rows}
    assert by_frame == pytest.approx(dict(enumerate(UNEVEN)), abs=1e-6)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["frame"]: entry["time"] for entry in entries} == pytest.approx(by_frame)
    assert len(list((tmp_path / "out" / "masks" / "clip").glob("*.png"))) == len(UNEVEN)


def test_pictures_and_videos_share_a_table(tmp_path):
    def result(**where) -> ClassificationResult:
        photo = Photo(np.zeros((32, 32, 3), np.uint8), tmp_path / "x", "x", **where)
        return ClassificationResult(photo=photo, labels=np.array([0]), probabilities=np.array([1.0]), names=["a"])

    with PredictionFiles(tmp_path / "out", ["csv", "json"]) as files:
        files.write(result())
        files.write(result(frame=0, time=0.0))
        files.write(result(frame=1, time=1.25))
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [(row["frame"], row["time"]) for row in csv.DictReader(file)] == [("", ""), ("0", "0.0"), ("1", "1.25")]
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry.get("time") for entry in entries] == [None, 0.0, 1.25]


def test_each_video_has_an_overlay_of_its_own(tmp_path):
    clips = [record(tmp_path / f"{name}.mp4", times) for name, times in (("a", UNEVEN[:3]), ("b", UNEVEN[:5]))]
    with PredictionFiles(tmp_path / "out", ["overlays"]) as files:
        for photo in read_photos(find_sources([str(clip) for clip in clips])):
            assert isinstance(photo, Photo)
            files.write(
                ClassificationResult(photo=photo, labels=np.array([0]), probabilities=np.array([1.0]), names=["a"])
            )
    overlays = sorted((tmp_path / "out" / "overlays").iterdir())
    assert [path.name for path in overlays] == ["a.mp4", "b.mp4"]
    for overlay, times in zip(overlays, (UNEVEN[:3], UNEVEN[:5]), strict=True):
        assert stamps(overlay) == pytest.approx(times, abs=1e-5)


def test_a_damaged_video_is_a_failure(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    (item,) = read_photos(find_sources([str(tmp_path / "bad.mp4")]))
    assert isinstance(item, Failure)
    assert "bad.mp4" in str(item.error)
    assert "Errno" not in str(item.error)


def test_a_list_of_other_files_is_no_video(tmp_path, monkeypatch):
    """FFmpeg goes by content: a text named like a video would open what it names, on this machine or another."""
    other = record(tmp_path / "other.ts", [i / 25 for i in range(5)], tick=Fraction(1, 25), rate=25)
    lists = {
        "concat.mp4": f"ffconcat version 1.0\nfile {other.name}\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{other}\n#EXT-X-ENDLIST\n",
        "far.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    }
    assert len(list(read_video(other))) == 5
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        for attempt in (lambda path: next(read_video(path)), video_info):
            with pytest.raises(DataError, match=rf"{name} cannot be read"):
                attempt(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        next(read_video(Path(f"concat:{other.name}")))


CODECS = {"mov": "libx264", "m4v": "libx264", "avi": "mpeg4", "mpg": "mpeg1video", "mpeg": "mpeg2video", "wmv": "wmv2"}


@pytest.mark.parametrize("ending", CODECS)
def test_videos_of_every_ending_are_read(ending, tmp_path):
    clip = record(
        tmp_path / f"clip.{ending}", [i / 25 for i in range(5)], CODECS[ending], tick=Fraction(1, 25), rate=25
    )
    assert f".{ending}" in VIDEO_SUFFIXES
    assert [frame.image.shape for frame in read_video(clip)] == [(64, 96, 3)] * 5


def test_without_pyav_one_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    clip = record(tmp_path / "clip.mp4", UNEVEN)
    found = builtins.__import__

    def absent(name, *rest):
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    for attempt in (lambda: video_info(clip), lambda: next(read_video(clip))):
        with pytest.raises(DataError, match=r"clip\.mp4 needs PyAV.*hrnet-lightning\[video\]"):
            attempt()
    classifier = ClassificationTask(HRNet("w18_small_v1"), num_classes=3)
    tasks.save_task(classifier, tmp_path / "bare.ckpt")
    words = [str(tmp_path / "bare.ckpt"), str(clip), "--image_size", "32", "32", "--output", str(tmp_path / "out")]
    (failure,) = predict.main(words)
    assert "PyAV" in str(failure.error)
    assert "pip install av" in capsys.readouterr().err
