"""manage.py keys list|rotate|retire: the keys that sign codes, changed while the site runs."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand

from tickets import keys

HELP = """Show, add and remove the Ed25519 keys that sign the codes in tickets' QRs.

The first key signs, all verify. Keys come from QR_SIGNING_KEYS in the environment, or else from a file in var/, which is
made at the first use. Running processes notice a change of the file within a second, and the commands return when they
have. The environment can't be changed from here: then rotate and retire print the new line to set, and the site has to be
started anew with it.

  keys list      which keys there are, which one signs, and their public parts
  keys rotate    add a key that signs from now on; codes signed with the old ones still verify
  keys retire 1  remove a key that doesn't sign; scans of its codes are refused as unknown_key from then on

After a compromise: rotate, send out the codes anew, retire (docs/operations.md has the steps).
Exit codes: 0 done, 1 refused or failed, 2 misuse.
"""
ROTATE_HELP = """Add a key that signs from now on. First the new key only verifies; once every running process knows it, it
signs. So no gate ever meets a code of a key that it doesn't know."""
RETIRE_HELP = """Remove a key that doesn't sign. Codes that were signed with it are refused as unknown_key from then on, for good:
do it once their holders have new ones. Its secret is gone with it; only a backup brings it back."""
ROLLING = (
    "Set this where QR_SIGNING_KEYS is set, and start the site anew. Where processes are started anew one after the other, set it "
    "first with the first key moved to the end, everywhere: until then some would not know the key that others sign with."
)


class Command(BaseCommand):
    """Change the file of keys, or say what the variable has to be."""

    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the lines of the help as they are."""
        return super().create_parser(
            prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the subcommands."""
        commands = parser.add_subparsers(dest="do", required=True, metavar="list|rotate|retire")
        listing = commands.add_parser("list", help="which keys there are, and which one signs")
        listing.add_argument("--json", action="store_true", help="as one JSON object, for scripts")
        rotate = commands.add_parser(
            "rotate", help="add a key that signs from now on", description=ROTATE_HELP
        )
        retire = commands.add_parser(
            "retire", help="remove a key: its codes become unknown_key", description=RETIRE_HELP
        )
        retire.add_argument("key_id", type=int, metavar="KEY", help="the key's id, as list names it")
        for changing in (rotate, retire):
            changing.add_argument(
                "--dry-run", action="store_true", help="say what would be done, and do nothing"
            )

    def handle(self, *args: Any, do: str, **options: Any) -> None:
        """Run one of them."""
        if do == "list":
            self._list(as_json=options["json"])
        elif do == "rotate":
            self._rotate(is_dry=options["dry_run"])
        else:
            self._retire(options["key_id"], is_dry=options["dry_run"])

    def _list(self, *, as_json: bool) -> None:
        ring = keys.key_ring()
        source = "QR_SIGNING_KEYS" if settings.QR_SIGNING_KEYS else str(keys.path())
        if as_json:
            described = [
                {"id": key_id, "signs": key_id == ring.signing_id, "public_key": keys.public(key)}
                for key_id, key in ring.verify_keys.items()
            ]
            self.stdout.write(json.dumps({"source": source, "keys": described}))
            return
        for key_id, key in ring.verify_keys.items():
            does = "signs, verifies" if key_id == ring.signing_id else "verifies"
            self.stdout.write(f"{key_id:>3}  {keys.public(key)}  {does}")
        self.stdout.write(f"From {source}.")

    def _rotate(self, *, is_dry: bool) -> None:
        old = sorted(keys.key_ring().verify_keys)
        if is_dry:
            _, key_id = keys.with_new_key(_text())
            self.stdout.write(f"Key {key_id} would be added and sign; {_verify(old)}.")
        elif settings.QR_SIGNING_KEYS:
            added, key_id = keys.with_new_key(settings.QR_SIGNING_KEYS)
            self._tell_what_to_set(keys.signing_with(added, key_id))
        else:
            new_ids: list[int] = []

            def add(text: str) -> str:
                added, key_id = keys.with_new_key(text)
                new_ids.append(key_id)
                return added

            _change(add)  # no process signs with it before all know it
            [key_id] = new_ids
            _change(lambda text: keys.signing_with(text, key_id))
            self.stdout.write(f"Key {key_id} signs from now on; {_verify(old)}.")

    def _retire(self, key_id: int, *, is_dry: bool) -> None:
        left = keys.without(_text(), key_id)
        if is_dry:
            self.stdout.write(f"Key {key_id} would be removed, and its codes refused as unknown_key.")
        elif settings.QR_SIGNING_KEYS:
            self._tell_what_to_set(left)
        else:
            _change(lambda text: keys.without(text, key_id))
            self.stdout.write(f"Key {key_id} is gone: its codes are refused as unknown_key.")

    def _tell_what_to_set(self, text: str) -> None:
        self.stderr.write(ROLLING)
        self.stdout.write(f"QR_SIGNING_KEYS={text}")


def _change(change: Callable[[str], str]) -> None:
    """Change the file, and return when every running process has noticed."""
    keys.change_file(change)
    time.sleep(keys.NOTICED_WITHIN_S * 1.5)


def _text() -> str:
    keys.key_ring()  # makes the file where there is none
    return settings.QR_SIGNING_KEYS or keys.path().read_text()


def _verify(ids: list[int]) -> str:
    return f"{', '.join(map(str, ids))} still verif{'ies' if len(ids) == 1 else 'y'}"
