"""manage.py pool status|cancel|drill: look at the pools of the running site, and see whether they keep their promises."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from core import control
from health.drill import STEPS, Drill, Impossible

DRILL_HELP = """Break the running site in bounded ways and print pass or fail for each promise. Requests that are
under way may be refused meanwhile (503), and take some seconds longer: rehearse it before doors open, not after.

steps:
""" + "\n".join(f"  {name:<8} {words}" for name, (words, _) in STEPS.items())


class Command(BaseCommand):
    """Ask the server processes of this machine."""

    help = (
        "Look at the connection pools of the server processes on this machine (status), or rehearse what could happen "
        "to them (drill). Exit codes: 0 done, 1 a promise was broken or nobody serves, 2 misuse."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the subcommands."""
        commands = parser.add_subparsers(dest="do", required=True, metavar="status|cancel|drill")
        status = commands.add_parser(
            "status", help="who holds which connection, who waits, what went wrong so far"
        )
        status.add_argument("--json", action="store_true", help="everything, as one JSON array")
        cancel = commands.add_parser(
            "cancel", help="cancel the statement that one holder runs, as status names it"
        )
        cancel.add_argument("process", help="the process, as status names it")
        cancel.add_argument("lease", type=int, help="the number in front of the holder")
        drill = commands.add_parser(
            "drill",
            help="kill, freeze, exhaust, nest, leak, fork: pass or fail",
            description=DRILL_HELP,
            formatter_class=RawDescriptionHelpFormatter,
        )
        drill.add_argument(
            "--only", metavar="STEP,…", default=",".join(STEPS), help="some of the steps (all)"
        )
        drill.add_argument("--url", help="where the site listens (http://127.0.0.1:PORT)")
        drill.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")

    def handle(self, *args: Any, do: str, **options: Any) -> None:
        """Run one of them."""
        try:
            if do == "status":
                self._status(as_json=options["json"])
            elif do == "cancel":
                self._cancel(options["process"], options["lease"])
            else:
                steps = [step.strip() for step in options["only"].split(",") if step.strip()]
                self._drill(steps, options["url"], is_dry=options["dry_run"])
        except PermissionError as error:
            raise CommandError(
                f"{control.folder()} belongs to another user: run this as the site's."
            ) from error

    def _status(self, *, as_json: bool) -> None:
        pools = control.ask_all("status")
        if as_json:
            self.stdout.write(json.dumps(pools))
        for pool in [] if as_json else pools:
            self._describe(pool)
        if silent := sorted(set(control.processes()) - {pool["process"] for pool in pools}):
            raise CommandError(f"No answer from {', '.join(silent)}.")
        if not pools:
            raise CommandError(
                f"No server process of this site runs on this machine (sockets: {control.folder()})."
            )

    def _cancel(self, process: str, lease: int) -> None:
        if process not in control.processes():
            raise CommandError(f"No server process {process} runs on this machine: see pool status.")
        held = control.ask(process, "cancel", lease=lease)
        if held is None:
            raise CommandError("That connection was given back meanwhile.")
        self.stdout.write(f"Cancelled: {held}.")

    def _describe(self, pool: dict[str, Any]) -> None:
        self.stdout.write(
            f"{pool['process']}: {pool['in_use']} of {pool['cap']} in use, {pool['idle']} idle, {pool['waiting']} waiting; "
            f"{pool['invalidations']} broken, {pool['dirty_returns']} reset, {pool['leaks']} leaked so far"
        )
        if pool["connect_error"]:
            self.stdout.write(f"  the database is away: {pool['connect_error']}")
        for held in pool["holders"]:
            self.stdout.write(
                f"  {held['lease']:>6}  {held['held_s']:8.1f} s  {held['purpose']:<10} {held['label'] or '?'}  [{held['state']}, "
                f"server process {held['backend_pid']}]  {held['last_statement']}"
            )
        for waiter in pool["waiters"]:
            self.stdout.write(
                f"  {waiter['waited_s']:8.1f} s  {waiter['purpose']:<10} {waiter['label'] or '?'}  [waits]"
            )

    def _drill(self, steps: list[str], url: str | None, *, is_dry: bool) -> None:
        if unknown := set(steps) - set(STEPS):
            raise CommandError(
                f"No such step: {', '.join(sorted(unknown))}. There are: {', '.join(STEPS)}.", returncode=2
            )
        if is_dry:
            for step in steps:
                self.stdout.write(f"would  {step:<8} {STEPS[step][0]}")
            return
        failed = 0
        try:
            for outcome in Drill(url or f"http://127.0.0.1:{settings.PORT}").run(steps):
                failed += outcome.verdict == "fail"
                self.stdout.write(f"{outcome.verdict}   {outcome.step:<8} {outcome.words}")
                self.stdout.flush()
        except Impossible as reason:
            raise CommandError(str(reason)) from reason
        if failed:
            raise CommandError(f"{failed} of {len(steps)} promises were broken.")
