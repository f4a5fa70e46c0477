"""OUTPUT_DIR is checked before a run starts (test_config.py tests command lines)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.config import ConfigError
from gbw_d2.engine import setup


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    setup.check_output_dir(str(folder))
    assert list(folder.iterdir()) == []
    (folder / "kept").write_text("kept")
    setup.check_output_dir(str(folder))
    assert [p.name for p in folder.iterdir()] == ["kept"]


@pytest.mark.parametrize("below", ["", "/run", "/run/1"])
def test_a_file_stands_where_the_folder_should(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR '.*cannot be written to .*set it to"):
        setup.check_output_dir(f"{tmp_path}/file{below}")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("folder", ["/proc/gbw_run", "/proc/self"])
def test_a_file_system_that_takes_no_files(folder: str) -> None:
    with pytest.raises(ConfigError, match=rf"OUTPUT_DIR '{folder}' cannot be written to"):
        setup.check_output_dir(folder)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not stop root, so what the system would say is put in.
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(setup.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"\(Permission denied\); set it to a folder"):
        setup.check_output_dir(str(tmp_path))


def test_a_nameless_folder_would_keep_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OUTPUT_DIR is ''"):
        setup.check_output_dir("")
