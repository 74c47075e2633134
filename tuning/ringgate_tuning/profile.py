"""The profiles in tuning/profiles: what they say, and what they mean on a machine that has values already."""

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "profiles"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# A profile carries this many times the connections of its name.
HEADROOM = 1.25


class ProfileError(Exception):
    """A profile that is missing, or cannot be read. Its text is for the operator."""


@dataclass(frozen=True)
class Setting:
    """One line of a profile."""

    key: str
    value: str
    rule: str
    optional: bool
    why: str
    verify: str

    def target(self, present):
        """The value to set where `present` is the one of the machine."""
        if self.rule != "at least" or present is None:
            return self.value
        there, wanted = present.split(), self.value.split()
        if len(there) != len(wanted) or not all(number.isdigit() for number in there):
            return self.value
        return " ".join(str(max(int(a), int(b))) for a, b in zip(there, wanted))


@dataclass
class Profile:
    """One file: kernel settings in order, and limits of the process (`nofile`, and `memlock` in KiB)."""

    name: str
    connections: int = 0
    memory: int = 0
    settings: list = field(default_factory=list)
    limits: dict = field(default_factory=dict)

    def get(self, key):
        """The setting for `key`, or None."""
        return next((setting for setting in self.settings if setting.key == key), None)


def names():
    """All profiles, the smallest first."""
    return [profile.name for profile in sorted((load(path.stem) for path in FOLDER.glob("*.conf")), key=lambda p: p.connections)]


def for_connections(connections):
    """The smallest profile that carries so many, or the largest that there is."""
    profiles = [load(name) for name in names()]
    return next((profile for profile in profiles if profile.connections * HEADROOM >= connections), profiles[-1])


def load(name):
    """Reads a profile by its name."""
    path = FOLDER / f"{name}.conf"
    if "/" in name or not path.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.conf")))
        raise ProfileError(f"there is no profile {name!r}; there are: {known}")
    return parse(name, path.read_text())


def parse(name, text):
    """Reads the text of a profile. Every setting must say why, how to verify it, and its rule."""
    profile = Profile(name)
    said = {}
    last = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}.conf, line {number}"
        if not line.strip() or line.startswith("##"):
            said, last = {}, None
        elif line.startswith("#"):
            last = _comment(profile, said, last, line, where)
        else:
            profile.settings.append(_setting(said, line, where))
    if not profile.connections or not profile.memory:
        raise ProfileError(f"{name}.conf does not say for how many connections and how much memory it is")
    return profile


def _comment(profile, said, last, line, where):
    match = re.fullmatch(r"# (Why|Verify|Rule|Connections|Memory|Limit): (.+)", line)
    if not match:
        if last and line.startswith("#   "):
            said[last] += " " + line[4:]
        return last
    word, rest = match.groups()
    if word == "Connections":
        profile.connections = int(rest)
    elif word == "Memory":
        amount, unit = rest.split()
        profile.memory = int(amount) * UNITS[unit]
    elif word == "Limit":
        limit, _, value = rest.partition(" = ")
        _need(said, ("Why", "Verify"), where)
        profile.limits[limit] = int(value)
    else:
        said[word] = rest
        return word
    return None


def _setting(said, line, where):
    match = re.fullmatch(r"(-?)([a-z0-9_.-]+) = (\S+(?: \S+)*)", line)
    if not match:
        raise ProfileError(f"{where}: not of the form key = value: {line}")
    _need(said, ("Why", "Verify", "Rule"), where)
    if said["Rule"] not in ("at least", "exactly"):
        raise ProfileError(f"{where}: the rule is \"at least\" or \"exactly\", not {said['Rule']!r}")
    dash, key, value = match.groups()
    return Setting(key, value, said["Rule"], dash == "-", said["Why"], said["Verify"])


def _need(said, words, where):
    for word in words:
        if word not in said:
            raise ProfileError(f"{where}: no \"# {word}:\" above it")
