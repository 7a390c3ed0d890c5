"""The environments of the bench's contestants: made once under var/bench/, each from its requirements file."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from bench.contestants import CONTESTANTS

ROOT = Path(__file__).resolve().parent.parent
VAR = ROOT / "var" / "bench"


def python_of(contestant: str) -> Path:
    """Return the Python to run a contestant of bench.pool with."""
    return python_in(CONTESTANTS[contestant].environment)


def python_in(name: str) -> Path:
    """Return the Python of requirements-<name>.txt, installing those where that has not been done; "": the project's."""
    if not name:
        return Path(sys.executable)
    wanted = ROOT / "bench" / f"requirements-{name}.txt"
    folder = VAR / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    installed = folder / "installed.txt"
    python = folder / "bin" / "python"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        shown = folder.relative_to(ROOT)
        sys.stderr.write(f"Installing {wanted.relative_to(ROOT)} into {shown}, once …\n")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(wanted)], check=True, stderr=subprocess.PIPE, text=True)
        installed.write_text(wanted.read_text())
    return python
