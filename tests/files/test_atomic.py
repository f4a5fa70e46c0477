"""Files are complete or unchanged, and no temporary file remains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gbw_d2.files.atomic import cut_to_whole_lines, put_in_place, replacing, write_atomically


def test_folders_are_made_and_the_content_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file.txt"
    write_atomically(path, "Ä")
    assert path.read_bytes() == b"\xc3\x84"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_as_it_was_until_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        # Another process has another name, and what is listed by its ending is not found.
        assert str(os.getpid()) in temporary.name
        assert not list(tmp_path.glob("*.txt.*.txt"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced_where_it_writes_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with replacing(path, alone=True) as temporary:
        name = temporary
        temporary.write_text("first")
    name.write_text("left by a process that was killed")
    write_atomically(path, "second", alone=True)
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_the_ending_of_the_temporary_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "film.mp4", ".part.mp4") as temporary:
        assert temporary.name.endswith(".part.mp4")
        temporary.write_bytes(b"frames")
    assert (tmp_path / "film.mp4").read_bytes() == b"frames"


def test_a_folder_is_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft/file").write_text("x")
    put_in_place(tmp_path / "draft", tmp_path / "done")
    assert (tmp_path / "done/file").read_text() == "x"
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"a", b""), (b"", b"")],
)
def test_a_line_without_an_end_is_taken_off(tmp_path: Path, content: bytes, kept: bytes) -> None:
    path = tmp_path / "metrics.json"
    cut_to_whole_lines(path)
    assert not path.exists()
    path.write_bytes(content)
    cut_to_whole_lines(path)
    assert path.read_bytes() == kept
