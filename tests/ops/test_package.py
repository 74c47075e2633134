"""The Debian package: what is in it, that it installs into a scratch root, and that what was installed starts and is used."""

import os
import re
import shutil
import signal

import deb
import pytest
from support import ROOT, SYSTEMD, clean_environment, eventually, handshake, read_json, run, started

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg is not installed")

WANTED = {
    "usr/bin/ringgate": "-rwxr-xr-x",
    "etc/ringgate/ringgate.toml": "-rw-r-----",
    "etc/default/ringgate": "-rw-r--r--",
    "usr/lib/systemd/system/ringgate.service": "-rw-r--r--",
    "usr/lib/sysusers.d/ringgate.conf": "-rw-r--r--",
    "usr/lib/tmpfiles.d/ringgate.conf": "-rw-r--r--",
    "usr/share/man/man1/ringgate.1.gz": "-rw-r--r--",
    "usr/share/doc/ringgate/OPERATING.md": "-rw-r--r--",
    "usr/share/ringgate/tuning/apply": "-rwxr-xr-x",
    "usr/share/ringgate/tuning/check": "-rwxr-xr-x",
    "usr/share/ringgate/tuning/nic": "-rwxr-xr-x",
    "usr/share/ringgate/tuning/profiles/10k.conf": "-rw-r--r--",
    "usr/share/ringgate/tuning/profiles/100k.conf": "-rw-r--r--",
    "usr/share/ringgate/tuning/profiles/1m.conf": "-rw-r--r--",
}


@pytest.fixture(scope="module", params=["dpkg-deb", "cargo-deb"])
def package(request, binary, tmp_path_factory):
    """The package, built by both ways where both can be had."""
    folder = tmp_path_factory.mktemp("package")
    if request.param == "dpkg-deb":
        return deb.build(binary, folder)
    if not shutil.which("cargo-deb"):
        pytest.skip("cargo-deb is not installed (cargo install cargo-deb --locked)")
    if binary.resolve() != ROOT / "target/release/ringgate":
        pytest.skip("cargo-deb packs target/release/ringgate, and another binary is being tested")
    out = folder / "ringgate.deb"
    result = run("cargo", "deb", "--no-build", "--no-strip", "--fast", "--output", out, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture
def extracted(package, tmp_path):
    """The files of the package, without its scripts having run."""
    root = tmp_path / "extracted"
    assert run("dpkg-deb", "-x", package, root).returncode == 0
    return root


def test_it_has_what_a_service_needs(package):
    listing = run("dpkg-deb", "--contents", package).stdout
    modes = {line.split()[-1].removeprefix("./"): line.split()[0] for line in listing.splitlines()}
    assert {path: modes.get(path) for path in WANTED} == WANTED
    assert all(re.search(r" (root/root|0/0) ", line) for line in listing.splitlines())
    assert not any("__pycache__" in path or path.startswith("etc/sysctl.d") for path in modes), "settings are applied on request only"


def test_its_control_file_is_complete(package):
    fields = run("dpkg-deb", "--field", package).stdout
    for pattern in (r"^Package: ringgate$", r"^Version: \d+\.\d+\.\d+-1$", r"^Depends: .*libc6", r"^Recommends: python3", r"^Maintainer: .+ <.+>$"):
        assert re.search(pattern, fields, re.MULTILINE), f"{pattern} in\n{fields}"
    assert set(run("dpkg-deb", "--info", package, "conffiles").stdout.split()) == {"/etc/ringgate/ringgate.toml", "/etc/default/ringgate"}


@pytest.mark.parametrize("script", sorted((SYSTEMD / "deb").iterdir()), ids=lambda path: path.name)
def test_the_scripts_are_sound(script):
    assert run("sh", "-n", script).returncode == 0
    if shutil.which("shellcheck"):
        result = run("shellcheck", script)
        assert result.returncode == 0, result.stdout


def test_what_it_installs_starts_and_serves(extracted, tmp_path):
    """With the command line of the unit, its paths moved below the scratch root."""
    unit = (extracted / "usr/lib/systemd/system/ringgate.service").read_text()
    command = re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)[1].replace("$OPTIONS", "").split()
    (extracted / "run/ringgate").mkdir(parents=True)
    command = [str(extracted) + part if part.startswith("/") else part for part in command]
    command += ["--set=listen.client=127.0.0.1:0", "--set=listen.admin=127.0.0.1:0", "--set=drain.spread=100ms"]
    log = tmp_path / "log"
    with open(log, "wb") as output, started(*command, env=clean_environment(), stdout=output, stderr=output) as process:
        ready = eventually(lambda: process.poll() is not None or read_json(extracted / "run/ringgate/ready.json"), "the ready file")
        assert isinstance(ready, dict), log.read_text()
        assert handshake(ready["client"], "alice").startswith("HTTP/1.1 101 ")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()


def test_the_installed_tools_work(extracted, scratch):
    folder = extracted / "usr/share/ringgate/tuning"
    environment = {**os.environ, "RINGGATE_TUNING_ROOT": str(scratch.root)}
    shutil.copytree(extracted / "etc/ringgate", scratch.path("/etc/ringgate"))
    assert run(folder / "apply", "100k", env=environment).returncode == 0
    result = run(folder / "check", env=environment)
    assert result.returncode == 0, result.stdout
    assert "those of profile 100k" in result.stdout


def dpkg(root, *arguments):
    return run("dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", *arguments, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})


@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg installs as root only")
def test_it_installs_upgrades_and_goes_again(package, tmp_path):
    root = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("")
    result = dpkg(root, "--install", package)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "systemctl enable --now ringgate" in result.stdout
    status = (root / "etc/ringgate").stat()
    if shutil.which("systemd-sysusers"):
        gid = int(re.search(r"^ringgate:[^:]*:\d+:(\d+):", (root / "etc/passwd").read_text(), re.MULTILINE)[1])
        assert (status.st_gid, status.st_mode & 0o777) == (gid, 0o750)
        assert (root / "etc/ringgate/ringgate.toml").stat().st_gid == gid, "the service reads it, others do not"
    (root / "etc/ringgate/ringgate.toml").write_text("# mine\n")
    (root / "etc/ringgate/hmac.secret").write_text("secret\n")
    result = dpkg(root, "--install", "--force-confold", package)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "enable --now" not in result.stdout, "that is for the first time"
    assert (root / "etc/ringgate/ringgate.toml").read_text() == "# mine\n"
    result = dpkg(root, "--remove", "ringgate")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (root / "usr/bin/ringgate").exists() and (root / "etc/ringgate/ringgate.toml").exists()
    result = dpkg(root, "--purge", "ringgate")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (root / "etc/ringgate/ringgate.toml").exists()
    assert (root / "etc/ringgate/hmac.secret").exists(), "what the operator made is the operator's"
