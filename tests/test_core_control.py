"""Processes that can be asked about themselves, by their owner and nobody else."""

import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from core import control
from core.purpose import process_name


@pytest.fixture
def var(settings):
    """A folder whose name is short enough for sockets; pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="q") as folder:
        settings.VAR_DIR = Path(folder)
        yield


@pytest.fixture
def listening(var):
    control.listen({"echo": lambda asked: asked["words"], "fail": lambda asked: 1 / 0})


def test_a_process_answers_what_it_is_asked(listening):
    assert control.processes() == [process_name()]
    assert control.ask(process_name(), "echo", words=[1, "two"]) == [1, "two"]
    assert control.ask_all("echo", words=3) == [3]


def test_only_its_owner_reaches_the_socket(listening):
    assert stat.S_IMODE(control.folder().stat().st_mode) == 0o700
    assert control.folder().stat().st_uid == os.geteuid()


def test_what_it_can_not_do_is_an_error_for_who_asked_and_a_stack_in_the_log(listening, caplog):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        control.ask(process_name(), "fail")
    with pytest.raises(RuntimeError, match="KeyError"):
        control.ask(process_name(), "unknown")

    assert len(caplog.records) == 2
    assert control.ask(process_name(), "echo", words="still here") == "still here"


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b"{}\n", b"x" * 100_000, b"\xff\n"])
def test_nonsense_is_answered_and_breaks_nothing(listening, line, caplog):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control.folder() / f"{process_name()}.sock"))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        answer = json.loads(client.makefile("rb").readline())

    assert (answer["process"], "error" in answer) == (process_name(), True)


def test_a_process_that_is_gone_leaves_no_trace(var):
    control.folder().mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(control.folder() / "host-1.sock"))

    assert control.processes() == []
    assert list(control.folder().iterdir()) == []


def test_a_folder_that_is_somebody_elses_is_not_used(var, caplog):
    control.folder().write_text("in the way")

    control.listen({})

    assert "can't be asked about its pool" in caplog.messages[0]
    assert control.processes() == []


def test_a_deep_folder_has_its_sockets_where_the_kernel_can_reach_them(settings, tmp_path):
    settings.VAR_DIR = tmp_path / ("x" * 100)

    control.listen({"echo": lambda asked: 1})
    place = control.folder()
    answer = control.ask_all("echo")
    for path in place.iterdir():
        path.unlink()
    place.rmdir()

    assert (answer, place.parent.name) == ([1], "tmp")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_nobody_is_asked_in_a_folder_that_is_somebody_elses(listening):
    os.chown(control.folder(), 65534, 65534)

    with pytest.raises(PermissionError):
        control.processes()
