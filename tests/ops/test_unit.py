"""The service as systemd sees it: valid, confined, and consistent with the gateway; and the confinement leaves io_uring alone."""

import ctypes
import ctypes.util
import os
import re
import shutil
import signal
import tomllib

import pytest
from ringgate_tuning import profile as profiles
from support import SYSTEMD, clean_environment, eventually, handshake, read_json, run, started

EXPOSURE_MAX = 2.0
UNIT = SYSTEMD / "ringgate.service"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def unit():
    """The unit's keys, each with its values in order."""
    values = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path):
    # In a root where what it starts exists, and the units that it names.
    for program in ("/usr/bin/ringgate", "/bin/kill"):
        path = tmp_path / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    folder = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system" if os.path.isdir("/usr/lib/systemd/system") else "/lib/systemd/system", folder, symlinks=True)
    (folder / "ringgate.service").write_text(UNIT.read_text())
    result = run("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "ringgate.service")
    said = [line for line in (result.stdout + result.stderr).splitlines() if "ringgate" in line]
    assert said == [] and result.returncode == 0, result.stderr


@needs_systemd
def test_its_exposure_is_small():
    result = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)[1])
    print(f"exposure {exposure}")
    assert exposure <= EXPOSURE_MAX, result.stdout


def test_a_stop_has_the_time_that_a_drain_may_take():
    deadline = seconds(tomllib.loads((SYSTEMD / "ringgate.toml").read_text())["drain"]["deadline"])
    assert seconds(unit()["TimeoutStopSec"][0]) >= deadline + 5


def test_the_watchdog_leaves_room_for_the_freshness_of_answers():
    assert seconds(unit()["WatchdogSec"][0]) >= 3 * 2


def test_a_wrong_configuration_is_not_tried_again(binary, tmp_path):
    config = tmp_path / "ringgate.toml"
    config.write_text("[nonsense]\n")
    result = run(binary, "serve", "--config", config, env=clean_environment())
    assert str(result.returncode) in unit()["RestartPreventExitStatus"]
    result = run(binary, "check-config", "--config", config, env=clean_environment())
    assert result.returncode != 0, "the reload must fail"


def test_the_limits_are_those_of_the_profile_for_100k():
    profile = profiles.load("100k")
    assert int(unit()["LimitNOFILE"][0]) == profile.limits["nofile"]
    assert unit()["LimitMEMLOCK"] == [f"{profile.limits['memlock'] // 1024}M"]


def test_the_configuration_that_is_installed_is_the_default_one(binary):
    result = run(binary, "default-config", env=clean_environment())
    assert (SYSTEMD / "ringgate.toml").read_text() == result.stdout, "ringgate default-config > systemd/ringgate.toml"


def test_the_environment_file_names_real_keys(binary, tmp_path):
    lines = re.findall(r"^#(RINGGATE_\w+|OPTIONS)=(.*)$", (SYSTEMD / "ringgate.default").read_text(), re.MULTILINE)
    assert len(lines) >= 3
    environment = {name: value for name, value in lines if name != "OPTIONS"}
    options = " ".join(value for name, value in lines if name == "OPTIONS").split()
    (tmp_path / "c.toml").write_text("[auth]\nallow_insecure = true\n")
    result = run(binary, "check-config", "--config", tmp_path / "c.toml", *options, env=clean_environment(**environment))
    assert result.returncode == 0 and "RINGGATE_" not in result.stderr, result.stderr


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_user_and_folders_are_made(tmp_path):
    for folder in ("etc/ringgate", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"):
        (tmp_path / folder).mkdir(parents=True)
    config = tmp_path / "etc/ringgate/ringgate.toml"
    config.write_text("")
    shutil.copy(SYSTEMD / "ringgate.sysusers", tmp_path / "usr/lib/sysusers.d/ringgate.conf")
    shutil.copy(SYSTEMD / "ringgate.tmpfiles", tmp_path / "usr/lib/tmpfiles.d/ringgate.conf")
    assert run("systemd-sysusers", f"--root={tmp_path}").returncode == 0
    result = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "ringgate.conf")
    assert result.returncode == 0, result.stderr
    passwd = (tmp_path / "etc/passwd").read_text()
    gid = int(re.search(r"^ringgate:[^:]*:\d+:(\d+):", passwd, re.MULTILINE)[1])
    for path, mode in ((config.parent, 0o750), (config, 0o640)):
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (mode, 0, gid), path


def allowed_calls():
    """The system calls that the unit's SystemCallFilter= lines leave, by name."""
    allowed = set()
    for line in unit()["SystemCallFilter"]:
        names = set()
        for name in line.lstrip("~").split():
            names |= members(name)
        allowed = allowed - names if line.startswith("~") else allowed | names
    # What systemd allows in every filter, so that it can start the program at all.
    return allowed | members("@default") | {"execve"}


def members(name):
    if not name.startswith("@"):
        return {name}
    out = set()
    for line in run("systemd-analyze", "--no-pager", "syscall-filter", name).stdout.splitlines():
        entry = line.strip()
        if line.startswith("    ") and entry and not entry.startswith("#"):
            out |= members(entry)
    return out


@needs_systemd
def test_the_filter_has_what_io_uring_needs_and_not_what_it_does_not():
    allowed = allowed_calls()
    assert {"io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setaffinity", "unshare", "recvmsg"} <= allowed
    assert not {"mount", "ptrace", "bpf", "init_module", "reboot", "setuid", "chown", "kexec_load", "perf_event_open", "add_key"} & allowed


class Filter:
    """A seccomp filter as systemd makes it: everything that is not named gives EPERM."""

    def __init__(self, names):
        self.lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self.lib.seccomp_init.restype = ctypes.c_void_p
        self.lib.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
        self.lib.seccomp_load.argtypes = [ctypes.c_void_p]
        refuse, allow = 0x00050001, 0x7FFF0000
        self.context = self.lib.seccomp_init(refuse)
        for name in sorted(names):
            number = self.lib.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:
                assert self.lib.seccomp_rule_add(self.context, allow, number, 0) == 0, name

    def load(self):
        """Confines this process for good; it gives up new privileges too."""
        if os.geteuid() == 0:
            hide_proc()
            drop_capabilities()
        deny_write_execute()
        if self.lib.seccomp_load(self.context) != 0:
            os._exit(99)


CLONE_NEWNS, MS_REC_PRIVATE = 0x20000, 0x44000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 24, 38, 65
LIBC = ctypes.CDLL(None, use_errno=True)


def hide_proc():
    """ProtectProc=invisible and ProcSubset=pid: of /proc only one's own processes are left."""
    done = LIBC.unshare(CLONE_NEWNS) == 0 and LIBC.mount(b"none", b"/", None, MS_REC_PRIVATE, None) == 0
    if done and LIBC.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=invisible,subset=pid") != 0:
        os._exit(98)


def drop_capabilities():
    """CapabilityBoundingSet= and NoNewPrivileges=yes."""
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    version_3, this_process = 0x20080522, 0
    header, none = (ctypes.c_uint32 * 2)(version_3, this_process), (ctypes.c_uint32 * 6)()
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or LIBC.capset(header, none) != 0:
        os._exit(97)


def deny_write_execute():
    """MemoryDenyWriteExecute=yes, where the kernel has it (6.3)."""
    LIBC.prctl(PR_SET_MDWE, 1, 0, 0, 0)


@needs_systemd
@pytest.mark.parametrize("tables", ["shared", "private"])
def test_confined_as_by_the_unit_it_runs_on_io_uring_and_serves(binary, tmp_path, tables):
    try:
        confinement = Filter(allowed_calls())
    except OSError:
        pytest.skip("libseccomp is not installed")
    free = run_confined(binary, tmp_path / "free", tables, None)
    confined = run_confined(binary, tmp_path / "confined", tables, confinement)
    assert confined["driver"] == free["driver"]
    assert confined["warnings"] == free["warnings"], "it misses a system call"


def run_confined(binary, folder, tables, confinement):
    """Starts it, connects, reloads, stops; returns the driver and the warnings of its log."""
    folder.mkdir()
    config = folder / "ringgate.toml"
    config.write_text("")
    command = [
        binary, "serve", "--config", config, "--ready-file", folder / "ready.json", "--set=listen.client=127.0.0.1:0",
        "--set=listen.admin=127.0.0.1:0", "--set=shards.count=2", f"--set=shards.fd_tables={tables}", "--set=drain.spread=100ms",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log, started(
        *command, env=clean_environment(), stdout=log, stderr=log, preexec_fn=confinement and confinement.load
    ) as process:
        ready = eventually(lambda: process.poll() is not None or read_json(folder / "ready.json"), "the ready file")
        assert isinstance(ready, dict), (folder / "log").read_text()
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        assert status["Seccomp"] == ("2" if confinement else "0")
        assert not confinement or int(status["CapEff"], 16) == int(status["CapBnd"], 16) & int(status["CapEff"], 16) == 0
        for user in "abcd":
            assert handshake(ready["client"], user).startswith("HTTP/1.1 101 ")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in (folder / "log").read_text(), "the reload")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (folder / "log").read_text()
    lines = (folder / "log").read_text().splitlines()
    warnings = sorted(line.split("WARN", 1)[1] for line in lines if " WARN " in line)
    assert not any(" ERROR " in line for line in lines), lines
    return {"driver": ready["driver"], "warnings": warnings}
