"""Reads and writes the files of a machine, below a root that tests set.

Nothing else in tuning/ opens /proc, /sys or /etc. With RINGGATE_TUNING_ROOT=DIR every path is taken below DIR, and no other
program is started: so a test never changes the machine that it runs on.
"""

import os
import subprocess
from pathlib import Path

ROOT_VARIABLE = "RINGGATE_TUNING_ROOT"


class Host:
    """This machine, or the one described by the files below a scratch root."""

    def __init__(self, root=None):
        self.root = Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "/")
        self.is_real = self.root == Path("/")

    def path(self, absolute):
        """Where `absolute` is on this host."""
        return self.root / str(absolute).lstrip("/")

    def read(self, absolute):
        """The text of a file without surrounding white space; None where it cannot be read."""
        try:
            return self.path(absolute).read_text(errors="replace").strip()
        except OSError:
            return None

    def write(self, absolute, text):
        """Writes a file of /proc or /sys in place. Raises OSError where the kernel refuses."""
        with open(self.path(absolute), "w") as file:
            file.write(text + "\n")

    def replace(self, absolute, text, mode=0o644):
        """Writes an ordinary file so that a reader sees the old or the new one; None removes it."""
        path = self.path(absolute)
        if text is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.rename(path)

    def names(self, absolute):
        """The names in a folder, sorted; none where there is no folder."""
        try:
            return sorted(entry.name for entry in self.path(absolute).iterdir())
        except OSError:
            return []

    def exists(self, absolute):
        """Whether there is such a file."""
        return self.path(absolute).exists()

    def sysctl(self, key):
        """The value of a kernel setting, its fields separated by one space; None where this kernel has none."""
        text = self.read(sysctl_path(key))
        return None if text is None else " ".join(text.split())

    def set_sysctl(self, key, value):
        """Sets it. Raises OSError where the kernel refuses, ValueError where it takes the value for another."""
        self.write(sysctl_path(key), value)
        taken = self.sysctl(key)
        if taken != value:
            raise ValueError(f"the kernel made {taken} of it")

    def run(self, *command):
        """Runs a program of the machine; False where it fails, is missing, or the host is not real."""
        if not self.is_real:
            return False
        try:
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        except OSError:
            return False

    def may_write(self):
        """Whether settings can be changed: by root, or on a scratch root."""
        return not self.is_real or os.geteuid() == 0


def sysctl_path(key):
    """The file of a kernel setting."""
    return "/proc/sys/" + key.replace(".", "/")
