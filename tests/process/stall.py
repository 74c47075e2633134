"""One thread of a gateway that does not go on, as a loop without end would make it; the others run on."""

import contextlib
import ctypes
import os
import pathlib

import pytest

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000


def shard_threads(pid):
    """Thread ids of the shards, in order."""
    names = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith("shard-"):
            names[name] = int(task.name)
    return [names[name] for name in sorted(names)]


@contextlib.contextmanager
def stopped(thread):
    """Holds this thread of another process by ptrace(2). SIGSTOP would stop all of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(request):
        if libc.ptrace(request, thread, None, None) != 0:
            error = ctypes.get_errno()
            if request == SEIZE and error == 1:
                pytest.skip("ptrace is not allowed here")
            raise OSError(error, os.strerror(error))

    ptrace(SEIZE)
    ptrace(INTERRUPT)
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        ptrace(DETACH)
