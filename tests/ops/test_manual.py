"""The man page: correct roff, and complete against the binary and the configuration."""

import re
import shutil
import tomllib

import pytest
from support import SYSTEMD, clean_environment, run

PAGE = SYSTEMD / "ringgate.1"


def text():
    """The page without its formatting."""
    plain = re.sub(r"\\f.", "", PAGE.read_text()).replace("\\-", "-").replace("\\(aq", "'")
    return re.sub(r"^\.[A-Z]+ ?", "", plain, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "command", [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-man", "-ww", "-z", "-Tutf8"]], ids=["mandoc", "groff"]
)
def test_it_is_correct(command):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    result = run(*command, PAGE)
    assert result.returncode == 0 and result.stdout + result.stderr == ""


def test_it_names_every_command_and_option(binary):
    help_of = lambda *command: run(binary, *command, "--help", env=clean_environment()).stdout  # noqa: E731
    commands = re.findall(r"^  ([a-z][a-z-]+)  ", help_of().partition("Commands:")[2], re.MULTILINE)
    assert {"serve", "check-config", "default-config", "gen-token"} <= set(commands)
    options = {option for command in ([], *([c] for c in commands if c != "help")) for option in re.findall(r"--[a-z-]+", help_of(*command))}
    missing = [word for word in [*commands, *sorted(options)] if word != "help" and word not in text()]
    assert missing == []


def test_it_names_every_section_of_the_configuration():
    sections = tomllib.loads((SYSTEMD / "ringgate.toml").read_text())
    assert [section for section in sections if f"[{section}]" not in text()] == []


def test_it_names_what_the_package_installs():
    for path in ("/etc/ringgate/ringgate.toml", "/etc/default/ringgate", "/usr/share/ringgate/tuning/check", "/run/ringgate/ready.json"):
        assert path in text(), path
