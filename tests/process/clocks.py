"""The clocks of one running process: they jump in it, and in nothing else on this machine.

A program reads its clocks through code that the kernel maps into it (the vDSO), and a gateway does so without the C library, where a library
that is loaded before it could stand in the way. So that code is replaced, in this one process, while it stands still: by a call of the kernel
and an addition.
"""

import os
import pathlib
import platform
import signal
import struct

import pytest

from gateway import eventually

STOP_S = 5
FUNCTION = b"__vdso_clock_gettime"
# Of section headers: symbols for dynamic linking.
DYNSYM = 11


def code(real_s, boot_s):
    """`clock_gettime` for x86-64: the clock in edi, where to write it in rsi."""
    return b"".join((
        b"\xb8\xe4\x00\x00\x00\x0f\x05",  # mov eax, 228; syscall
        b"\x85\xff\x74\x0d",  # test edi, edi; jz real
        b"\x83\xff\x07\x75\x07",  # cmp edi, CLOCK_BOOTTIME; jne out
        b"\x48\x81\x06" + struct.pack("<i", boot_s),  # add qword [rsi], boot_s
        b"\xc3",  # out: ret
        b"\x48\x81\x06" + struct.pack("<i", real_s),  # real: add qword [rsi], real_s
        b"\xc3",  # ret
    ))


class Clocks:
    """CLOCK_REALTIME and CLOCK_BOOTTIME of a gateway."""

    def __init__(self, gateway):
        if platform.machine() != "x86_64":
            pytest.skip("clocks are moved on x86-64 only")
        self.proc = pathlib.Path(f"/proc/{gateway.pid}")
        self.pid = gateway.pid
        maps = (line.split() for line in (self.proc / "maps").read_text().splitlines())
        self.start, self.end = next(
            tuple(int(bound, 16) for bound in words[0].split("-")) for words in maps if words[-1] == "[vdso]"
        )
        try:
            with open(self.proc / "mem", "r+b", buffering=0):
                pass
        except PermissionError:
            pytest.skip("the memory of another process may not be written to here")
        self.at, size = self._function()
        assert size >= len(code(0, 0)), "the function is as long as what replaces it"

    def set(self, *, real_s=0, boot_s=0):
        """From now on they are so many seconds ahead of this machine's."""
        try:
            self._stand_still()
            with open(self.proc / "mem", "r+b", buffering=0) as memory:
                memory.seek(self.at)
                memory.write(code(real_s, boot_s))
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _stand_still(self):
        """Stops all threads, none of them in the code that is to be replaced."""
        while True:
            os.kill(self.pid, signal.SIGSTOP)
            threads = [thread for thread in (self.proc / "task").iterdir() if not is_kernels(thread)]
            eventually(lambda: all(stands(thread) for thread in threads), "all threads stand still", STOP_S)
            if not any(self.start <= position(thread) < self.end for thread in threads):
                return
            os.kill(self.pid, signal.SIGCONT)

    def _function(self):
        """Address and size of the function."""
        with open(self.proc / "mem", "rb", buffering=0) as memory:
            memory.seek(self.start)
            image = memory.read(self.end - self.start)
        (sections,) = struct.unpack_from("<Q", image, 0x28)
        size, count = struct.unpack_from("<HH", image, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", image, sections + n * size) for n in range(count)]
        _, _, _, _, symbols, length, link, _, _, each = next(header for header in headers if header[1] == DYNSYM)
        names = headers[link][4]
        for symbol in range(symbols, symbols + length, each):
            name, _, _, _, value, size = struct.unpack_from("<IBBHQQ", image, symbol)
            if image[names + name :].startswith(FUNCTION + b"\0"):
                return self.start + value, size
        raise AssertionError("the vDSO has no clock_gettime")


def is_kernels(thread):
    """A worker of io_uring: it never runs what is mapped into the process."""
    return (thread / "comm").read_text().startswith("iou-")


def stands(thread):
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" and "running" not in (thread / "syscall").read_text()


def position(thread):
    """Where a thread that stands still will go on."""
    return int((thread / "syscall").read_text().split()[-1], 16)
