"""Inputs as people give them: folders, patterns, phone photos, files that are cut off, videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gbw_d2.inference.inputs import InputError, Video, find_sources, read_photo


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_patterns_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/x.png", "in/b/x.JPG", "in/b/y.v2.png", "in/readme.txt", "in/out/old.png")
    sources, problems = find_sources([str(tmp_path / "in")], tmp_path / "in/out")
    assert [s.name for s in sources] == ["a/x", "b/x", "b/y.v2"] and not problems
    asked = [str(tmp_path / "in/*/x.*"), str(tmp_path / "in/a/x.png"), str(tmp_path / "no.png")]
    sources, problems = find_sources(asked, tmp_path / "out")
    assert [s.name for s in sources] == ["a/x", "b/x"]
    assert len(problems) == 1 and "no.png" in problems[0]
    assert find_sources([str(tmp_path / "in/a/x.png")], tmp_path)[0] == []


def test_a_name_with_brackets_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "shot[1].png")
    sources, _ = find_sources([str(tmp_path / "shot[1].png")], tmp_path / "out")
    assert [s.name for s in sources] == ["shot[1]"]


def test_no_two_results_share_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "x.png", "x.jpg", "y.png")
    sources, _ = find_sources([str(tmp_path)], tmp_path / "out")
    assert [s.name for s in sources] == ["x.jpg", "x.png", "y"]
    touch(tmp_path, "x.png.png")
    assert len({s.name for s in find_sources([str(tmp_path)], tmp_path / "out")[0]}) == 4


def test_frames_of_a_video_do_not_meet_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "clip.mp4", "clip/000001.png")
    sources, _ = find_sources([str(tmp_path)], tmp_path / "out")
    assert {s.name for s in sources} == {"clip.mp4", "clip/000001.png"}


def test_photos_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = read_photo(tmp_path / "a.jpg")
    assert found.shape == (30, 20, 3)
    assert found[3, 10, 0] > 200 and found[26, 10, 0] < 50


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "empty.png", "text.png", "none.png"])
def test_unreadable_pictures_are_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    content = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no picture"}
    if path.stem in content:
        path.write_bytes(content[path.stem])
    with pytest.raises(InputError, match=name):
        read_photo(path)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    def make(count: int) -> Path:
        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
        for i in range(count):
            writer.write(np.full((24, 32, 3), (0, 0, i * 20), np.uint8))
        writer.release()
        return path

    return make


def test_video_frames(make_video: Callable[..., Path]) -> None:
    video = Video(make_video(7))
    assert video.announced == 7 and video.fps == 5
    reds = [float(frame[..., 0].mean()) for frame in video]
    assert reds == pytest.approx([0, 20, 40, 60, 80, 100, 120], abs=4)
    video.check_complete()


def test_unreadable_videos_are_told(make_video: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4"):
        Video(tmp_path / "text.mp4")
    video = Video(make_video(3))
    video.announced = 30
    assert len(list(video)) == 3
    with pytest.raises(InputError, match="3 of 30"):
        video.check_complete()
