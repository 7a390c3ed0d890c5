"""Signing keys out of the environment, or made at the first use."""

import base64
import stat

import pytest
from django.core.exceptions import ImproperlyConfigured

from core import secretfile
from tickets import keys

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
