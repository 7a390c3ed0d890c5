"""Signing keys out of the environment, or made at the first use."""

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from core import secretfile
from tickets import codes, keys

SEED = base64.b64encode(b"\x01" * 32).decode()
OTHER = base64.b64encode(b"\x02" * 32).decode()


def test_the_first_key_signs_and_all_verify():
    ring = keys.parse(f"2:{OTHER}, 1:{SEED}")

    assert (ring.signing_id, bytes(ring.signing_key), sorted(ring.verify_keys)) == (2, b"\x02" * 32, [1, 2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1",
        "1:",
        "1:abc",
        f"x:{SEED}",
        f"0:{SEED}",
        f"256:{SEED}",
        f"1:{SEED[:-4]}",
        f"1:{SEED},1:{OTHER}",
    ],
)
def test_nonsense_names_the_variable_and_never_repeats_the_key(text):
    with pytest.raises(ImproperlyConfigured, match="QR_SIGNING_KEYS") as caught:
        keys.parse(text)

    assert SEED not in str(caught.value)


def test_a_key_id_that_would_make_codes_begin_with_a_space_is_refused():
    with pytest.raises(ImproperlyConfigured, match="5 can't be a key id"):
        keys.parse(f"5:{SEED}")


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "var" / "secret"

    made = [
        secretfile.read_or_create(path, lambda: "first"),
        secretfile.read_or_create(path, lambda: "second"),
    ]

    assert made == ["first", "first"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def key_file(tmp_path, settings, monkeypatch):
    """A file of keys that no process knows yet, and a clock that makes it look again."""
    settings.QR_SIGNING_KEYS = ""
    settings.VAR_DIR = tmp_path
    monkeypatch.setattr(keys, "_file", keys._KeyFile())
    monkeypatch.setattr(keys, "NOTICED_WITHIN_S", 0.0)
    return keys.path()


@pytest.fixture
def environment(settings):
    settings.QR_SIGNING_KEYS = f"2:{OTHER},1:{SEED}"


def command(*arguments):
    said = io.StringIO()
    call_command("keys", *arguments, stdout=said, stderr=said)
    return said.getvalue()


def refused(*arguments):
    with pytest.raises(keys.KeyRefused) as caught:
        command(*arguments)
    return str(caught.value)


def test_after_a_rotation_the_new_key_signs_and_the_old_one_verifies(key_file):
    old = keys.key_ring()

    said = command("rotate")

    ring = keys.key_ring()
    assert said == "Key 2 signs from now on; 1 still verifies.\n"
    assert (ring.signing_id, list(ring.verify_keys), ring.verify_keys[1]) == (2, [2, 1], old.verify_keys[1])
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert list(key_file.parent.iterdir()) == [key_file]


def test_no_process_signs_with_a_key_before_all_know_it(key_file, monkeypatch):
    keys.key_ring()
    meanwhile = []
    monkeypatch.setattr(
        time, "sleep", lambda seconds: meanwhile.append((seconds, keys.parse(key_file.read_text())))
    )
    monkeypatch.setattr(keys, "NOTICED_WITHIN_S", 1.0)

    command("rotate")

    assert [seconds > keys.NOTICED_WITHIN_S for seconds, _ in meanwhile] == [True, True]
    assert [(ring.signing_id, list(ring.verify_keys)) for _, ring in meanwhile] == [(1, [1, 2]), (2, [2, 1])]


def test_a_retired_key_is_unknown(key_file):
    code = codes.make(codes.TicketRef(7, 42), key_id=1, key=keys.key_ring().signing_key)
    command("rotate")
    assert codes.read(code, keys.key_ring().verify_keys) == codes.TicketRef(7, 42)

    command("retire", "1")

    with pytest.raises(codes.CodeRefused, match="unknown_key"):
        codes.read(code, keys.key_ring().verify_keys)


def test_what_is_needed_is_not_retired(key_file):
    assert refused("retire", "1") == "Key 1 is the only one, and signs: rotate first."
    command("rotate")
    before = key_file.read_text()

    assert refused("retire", "2") == "Key 2 signs: rotate first."
    assert refused("retire", "9") == "There is no key 9; there are: 2, 1."
    assert key_file.read_text() == before


def test_a_dry_run_changes_nothing_and_shows_no_secret(key_file):
    command("rotate")
    before = key_file.read_text()

    said = command("rotate", "--dry-run") + command("retire", "1", "--dry-run")

    assert said == (
        "Key 3 would be added and sign; 1, 2 still verify.\n"
        "Key 1 would be removed, and its codes refused as unknown_key.\n"
    )
    assert key_file.read_text() == before


def test_the_list_shows_public_parts_only(environment):
    listed = json.loads(command("list", "--json"))

    ring = keys.key_ring()
    assert listed == {
        "source": "QR_SIGNING_KEYS",
        "keys": [
            {"id": 2, "signs": True, "public_key": keys.public(ring.verify_keys[2])},
            {"id": 1, "signs": False, "public_key": keys.public(ring.verify_keys[1])},
        ],
    }
    assert "2  " in command("list")
    assert SEED not in command("list") + json.dumps(listed)


def test_keys_of_the_environment_are_told_not_written(environment, tmp_path, settings, caplog):
    settings.VAR_DIR = tmp_path

    rotated = re.search(r"^QR_SIGNING_KEYS=(.*)$", command("rotate"), re.MULTILINE)[1]
    left = re.search(r"^QR_SIGNING_KEYS=(.*)$", command("retire", "1"), re.MULTILINE)[1]

    assert list(keys.parse(rotated).verify_keys) == [3, 2, 1]
    assert rotated.endswith(f",2:{OTHER},1:{SEED}")
    assert left == f"2:{OTHER}"
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""


def test_ids_go_round_and_leave_out_what_is_taken_or_unusable():
    assert keys.with_new_key(f"4:{SEED}")[1] == 6
    assert keys.with_new_key(f"255:{SEED},1:{OTHER}")[1] == 2
    full = ",".join(f"{key_id}:{SEED}" for key_id in range(1, 256) if key_id not in keys.UNUSABLE_IDS)
    with pytest.raises(keys.KeyRefused, match="retire some first"):
        keys.with_new_key(full)


def test_rotations_at_once_lose_no_key(key_file):
    keys.key_ring()
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: command("rotate"), range(8)))

    assert sorted(keys.key_ring().verify_keys) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"\xff1:abc"), lambda path: path.unlink()])
def test_whoever_runs_goes_on_with_the_keys_it_knows(key_file, caplog, harm):
    ring = keys.key_ring()
    harm(key_file)

    assert keys.key_ring() == ring
    assert "the ones known before stay in use" in caplog.text
    assert "abc" not in caplog.text


def test_the_file_is_looked_at_once_a_second_at_most(key_file, monkeypatch):
    monkeypatch.setattr(keys, "NOTICED_WITHIN_S", 1.0)
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    keys.key_ring()
    keys.change_file(lambda text: keys.with_new_key(text)[0])

    known = list(keys.key_ring().verify_keys)
    now_s += 1.0

    assert (known, list(keys.key_ring().verify_keys)) == ([1], [1, 2])


def test_a_file_of_keys_that_is_a_link_stays_one(key_file):
    keys.key_ring()
    real = key_file.with_name("real")
    key_file.rename(real)
    key_file.symlink_to(real)

    command("rotate")

    assert key_file.is_symlink()
    assert list(keys.parse(real.read_text()).verify_keys) == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--help"], 0, "After a compromise: rotate, send out the codes anew, retire"),
        (["list"], 0, "signs, verifies"),
        (["retire", "2"], 1, "error: Key 2 signs: rotate first."),
        (["retire", "two"], 2, "invalid int value"),
        (["lose"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_exit_codes(arguments, exit_code, words):
    environment = {**os.environ, "QR_SIGNING_KEYS": f"2:{OTHER},1:{SEED}"}
    line = [sys.executable, "manage.py", "keys", *arguments]

    process = subprocess.run(line, env=environment, capture_output=True, text=True)

    assert (process.returncode, "Traceback" in process.stderr) == (exit_code, False)
    assert words in process.stdout + process.stderr


def test_anybody_may_read_the_public_keys(client, environment):
    answer = client.get("/api/v1/keys")

    shown = {key.pop("kid"): key for key in answer.json()["keys"]}
    assert list(shown) == ["2", "1"]
    for key_id, seed in (("2", OTHER), ("1", SEED)):
        public = Ed25519PrivateKey.from_private_bytes(base64.b64decode(seed)).public_key().public_bytes_raw()
        x = base64.urlsafe_b64encode(public).decode().rstrip("=")
        assert shown[key_id] == {"kty": "OKP", "crv": "Ed25519", "use": "sig", "x": x}
    assert answer["Cache-Control"] == "public, max-age=60"
    assert answer["Content-Type"].startswith("application/json")


def test_an_etag_saves_the_answer_until_the_keys_change(client, environment, settings):
    tag = client.get("/api/v1/keys")["ETag"]

    same = client.get("/api/v1/keys", headers={"If-None-Match": tag})
    settings.QR_SIGNING_KEYS = f"2:{OTHER}"
    other = client.get("/api/v1/keys", headers={"If-None-Match": tag})

    assert (same.status_code, same.content, same["Cache-Control"]) == (304, b"", "public, max-age=60")
    assert (other.status_code, len(other.json()["keys"])) == (200, 1)
    assert other["ETag"] != tag
