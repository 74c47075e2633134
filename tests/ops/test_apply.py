"""tuning/apply on machines made of files: the difference, the setting, the way back."""

import json

import pytest
from ringgate_tuning import change, profile as profiles
from support import GIB, ROOT

SYSCTL_FILE, LIMITS_FILE, UNIT_FILE, MODULES_FILE = (
    path.lstrip("/") for path in (change.SYSCTL_FILE, change.LIMITS_FILE, change.UNIT_FILE, change.MODULES_FILE)
)


def applied(scratch, *arguments):
    result = scratch.run("apply", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_dry_run_shows_the_difference_and_changes_nothing(scratch):
    before = scratch.settings()
    out = applied(scratch, "100k", "--dry-run")
    assert "net.core.somaxconn" in out and "4096  ->  16384" in out
    assert "fs.nr_open" not in out, "it is high enough"
    assert "writes /etc/sysctl.d/90-ringgate.conf" in out
    assert scratch.settings() == before
    assert scratch.files() == {}


def test_it_sets_what_differs_and_keeps_what_is_better(scratch):
    scratch.set("net.core.somaxconn", "40000")
    scratch.set("net.ipv4.tcp_mem", "1\t2\t9000000")
    applied(scratch, "100k")
    assert scratch.get("net.core.somaxconn") == "40000"
    assert scratch.get("net.ipv4.tcp_mem") == "262144 393216 9000000"
    assert scratch.get("net.ipv4.tcp_rmem") == profiles.load("100k").get("net.ipv4.tcp_rmem").value
    assert scratch.get("net.ipv4.tcp_congestion_control") == "bbr"


def test_what_it_writes_holds_after_a_restart(scratch):
    applied(scratch, "1m")
    files = scratch.files()
    for line in files[SYSCTL_FILE].splitlines():
        if not line.startswith("#"):
            key, _, value = line.removeprefix("-").partition(" = ")
            assert scratch.get(key) == value
    assert "LimitNOFILE=2097152" in files[UNIT_FILE]
    assert "* hard nofile 2097152" in files[LIMITS_FILE] and "root hard nofile 2097152" in files[LIMITS_FILE]
    assert "soft nofile" not in files[LIMITS_FILE]
    assert "tcp_bbr" in files[MODULES_FILE]


def test_a_second_run_finds_nothing_to_do(scratch):
    applied(scratch, "100k")
    settings, files = scratch.settings(), scratch.files()
    out = applied(scratch, "100k")
    assert "0 of " in out and "->" not in out and "writes" not in out
    assert (scratch.settings(), scratch.files()) == (settings, files)


def test_undo_gives_back_exactly_what_was_there(scratch):
    scratch.write("/" + SYSCTL_FILE, "# mine\nfs.file-max = 5\n")
    settings = {key: value.split() for key, value in scratch.settings().items()}
    applied(scratch, "100k")
    applied(scratch, "1m")
    applied(scratch, "10k")
    out = applied(scratch, "--undo")
    assert "Profile 10k is undone" in out
    assert {key: value.split() for key, value in scratch.settings().items()} == settings
    assert scratch.files() == {SYSCTL_FILE: "# mine\nfs.file-max = 5\n"}
    assert "nothing to undo" in applied(scratch, "--undo")


def test_a_smaller_profile_after_a_larger_one_goes_back_down(scratch):
    applied(scratch, "10k")
    direct = {key: value.split() for key, value in scratch.settings().items()}
    applied(scratch, "1m")
    applied(scratch, "10k")
    assert {key: value.split() for key, value in scratch.settings().items()} == direct


def test_undo_can_be_tried_first(scratch):
    applied(scratch, "10k")
    settings, files = scratch.settings(), scratch.files()
    out = applied(scratch, "--undo", "--dry-run")
    assert "net.ipv4.tcp_tw_reuse  1  ->  2" in out
    assert (scratch.settings(), scratch.files()) == (settings, files)


def test_what_somebody_else_changed_since_is_theirs(scratch):
    applied(scratch, "100k")
    scratch.set("net.ipv4.tcp_fin_timeout", "7")
    scratch.write("/" + LIMITS_FILE, "# edited\n")
    out = applied(scratch, "--undo")
    assert scratch.get("net.ipv4.tcp_fin_timeout") == "7" and "somebody made it 7 since" in out
    assert scratch.files() == {LIMITS_FILE: "# edited\n"} and "somebody has changed it since" in out


def test_a_later_change_becomes_what_undo_gives_back(scratch):
    applied(scratch, "10k")
    scratch.set("net.ipv4.tcp_fin_timeout", "7")
    applied(scratch, "100k")
    assert scratch.get("net.ipv4.tcp_fin_timeout") == "20"
    applied(scratch, "--undo")
    assert scratch.get("net.ipv4.tcp_fin_timeout") == "7"


def test_what_this_kernel_does_not_have_is_left_out(scratch):
    for key in [*scratch.settings()]:
        if "nf_conntrack" in key:
            scratch.path("/proc/sys/" + key).unlink()
    out = applied(scratch, "100k")
    assert "nf_conntrack_max: this kernel has no such setting here; not needed" in out
    assert "nf_conntrack" not in scratch.files()[SYSCTL_FILE]


def test_a_missing_setting_that_is_needed_is_an_error(scratch):
    scratch.remove("net.core.somaxconn")
    result = scratch.run("apply", "100k")
    assert result.returncode == 1
    assert "net.core.somaxconn: this kernel has no such setting" in result.stdout
    assert scratch.get("net.ipv4.tcp_fin_timeout") == "20", "the others are set all the same"


def refuse(scratch, key):
    """Makes a setting one that nobody can write, root included."""
    path = scratch.sysctl_path(key)
    path.unlink()
    path.symlink_to("/proc/sys/kernel/ostype")


@pytest.mark.parametrize("key, code", [("net.ipv4.tcp_congestion_control", 0), ("net.ipv4.tcp_fin_timeout", 1)])
def test_a_refusal_is_told_and_the_rest_is_set(scratch, key, code):
    refuse(scratch, key)
    result = scratch.run("apply", "100k")
    assert result.returncode == code
    assert f"apply: {key} = " in result.stderr
    assert scratch.get("net.core.somaxconn") == "16384"
    assert key not in scratch.files()[SYSCTL_FILE], "a restart must not try it again and again"
    assert applied(scratch, "--undo").count(key) == 0


def test_a_limit_never_exceeds_what_the_kernel_allows(scratch):
    refuse(scratch, "fs.nr_open")
    result = scratch.run("apply", "1m")
    assert result.returncode == 1
    files = scratch.files()
    assert LIMITS_FILE not in files or "nofile 2097152" not in files[LIMITS_FILE], "nobody could log in any more"


def test_a_profile_too_large_for_the_memory_is_refused(scratch):
    scratch.memory(2 * GIB)
    before = scratch.settings()
    result = scratch.run("apply", "100k")
    assert result.returncode == 1
    assert "2 GiB of memory, and profile 100k is made for 4 GiB" in result.stderr
    assert scratch.settings() == before and scratch.files() == {}
    assert scratch.run("apply", "100k", "--force").returncode == 0


def test_a_damaged_memory_is_not_overwritten(scratch):
    scratch.write(change.STATE, "{")
    result = scratch.run("apply", "10k")
    assert result.returncode == 1 and "damaged" in result.stderr
    assert scratch.read(change.STATE) == "{"


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "either a profile"),
        (["10k", "--undo"], "either a profile"),
        (["5k"], "there are: 100k, 10k, 1m"),
        (["../profiles/10k"], "there is no profile"),
        (["10k", "--harder"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_says_what_would_be_right(scratch, arguments, says):
    result = scratch.run("apply", *arguments)
    assert result.returncode == 2 and says in result.stderr


def test_the_memory_is_readable(scratch):
    applied(scratch, "10k")
    state = json.loads(scratch.read(change.STATE))
    assert state["profile"] == "10k"
    assert state["before"]["net.ipv4.tcp_tw_reuse"] == "2" and state["set"]["net.ipv4.tcp_tw_reuse"] == "1"


def test_no_script_leaves_compiled_files_behind(scratch):
    applied(scratch, "10k", "--dry-run")
    assert not [*(ROOT / "tuning").rglob("__pycache__")]
