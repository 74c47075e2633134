"""Sets a profile, remembers what was there before, and takes it back.

The memory is one JSON file, written before anything is changed: `before` has the values and files as they were before the first
profile, `set` what this program made of them. Undo gives back only what still is as this program left it: somebody else's later
change is theirs.
"""

import json
from dataclasses import dataclass, field

STATE = "/var/lib/ringgate-tuning/state.json"
SYSCTL_FILE = "/etc/sysctl.d/90-ringgate.conf"
LIMITS_FILE = "/etc/security/limits.d/90-ringgate.conf"
UNIT_FILE = "/etc/systemd/system/ringgate.service.d/90-tuning.conf"
MODULES_FILE = "/etc/modules-load.d/ringgate.conf"
# What the kernel starts with; it is never less unless somebody wanted it so.
NR_OPEN_DEFAULT = 1 << 20
CONGESTION = "net.ipv4.tcp_congestion_control"


@dataclass(frozen=True)
class Step:
    """One setting: what it is, what it is to be, and the line of the profile."""

    setting: object
    present: str | None
    target: str

    @property
    def is_done(self):
        """Whether there is nothing to change."""
        return self.present == self.target


@dataclass
class State:
    """What is remembered between runs."""

    profile: str | None = None
    before: dict = field(default_factory=dict)
    set: dict = field(default_factory=dict)
    files_before: dict = field(default_factory=dict)
    files_set: dict = field(default_factory=dict)

    @classmethod
    def load(cls, host):
        """The state of this machine; an empty one where no profile was ever set. ValueError where the file is damaged."""
        text = host.read(STATE)
        if text is None:
            return cls()
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{STATE} is damaged ({error}); what was there before is not known") from error

    def save(self, host):
        """Writes it."""
        host.replace(STATE, json.dumps(vars(self), indent=2, sort_keys=True) + "\n", 0o600)


def plan(host, profile, state):
    """A step for every setting that this kernel has, and the settings that it does not have."""
    steps, missing = [], []
    for setting in profile.settings:
        present = host.sysctl(setting.key)
        if present is None:
            missing.append(setting)
            continue
        # A smaller profile after a larger one goes back down: what counts is what was there before this program came.
        ours = state.set.get(setting.key) == present
        steps.append(Step(setting, present, setting.target(state.before.get(setting.key, present) if ours else present)))
    return steps, missing


def files(profile, steps):
    """The files that keep the settings over a restart, and give the process its limits."""
    # A limit above fs.nr_open is worse than none: with it in limits.d nobody can log in any more.
    ceiling = next((int(step.target) for step in steps if step.setting.key == "fs.nr_open"), NR_OPEN_DEFAULT)
    nofile, memlock = min(profile.limits["nofile"], ceiling), profile.limits["memlock"]
    head = f"# Made by ringgate's tuning/apply {profile.name}; tuning/apply --undo removes it.\n"
    wanted = {
        SYSCTL_FILE: head + "".join(f"{'-' * s.setting.optional}{s.setting.key} = {s.target}\n" for s in steps),
        # root is not part of "*" here. Only the hard limit: a high soft one breaks old programs, and who needs it raises it.
        LIMITS_FILE: head
        + "".join(f"{who} hard nofile {nofile}\n{who} - memlock {memlock}\n" for who in ("*", "root")),
        UNIT_FILE: head + f"[Service]\nLimitNOFILE={nofile}\nLimitMEMLOCK={memlock}K\n",
    }
    if any(step.setting.key == CONGESTION and step.target == "bbr" for step in steps):
        wanted[MODULES_FILE] = head + "tcp_bbr\n"
    return wanted


def differing_files(host, wanted):
    """Those of `wanted` that are not there as they should be."""
    return {path: text for path, text in wanted.items() if _text(host, path) != text}


def stale_files(host, state, wanted):
    """Files of an earlier profile that this one does not want, and that are as this program left them."""
    return [path for path in state.files_set if path not in wanted and _text(host, path) == state.files_set[path]]


def apply(host, profile, state, steps):
    """Sets what differs. Returns the steps that the kernel refused, each with its reason."""
    changed = [step for step in steps if not step.is_done]
    for step in changed:
        key = step.setting.key
        if state.set.get(key) != step.present:
            state.before[key] = step.present
        state.set[key] = step.target
    state.profile = profile.name
    state.save(host)
    if any(step.setting.key == CONGESTION for step in changed):
        host.run("modprobe", f"tcp_{profile.get(CONGESTION).value}")
    refused = []
    for step in changed:
        try:
            host.set_sysctl(step.setting.key, step.target)
        except (OSError, ValueError) as error:
            refused.append((step, _reason(error)))
            _forget(host, state, step)
    given = [step for step, _ in refused]
    _keep(host, state, files(profile, [step for step in steps if step not in given]))
    return refused


def _keep(host, state, wanted):
    """Writes the files that differ, and takes back those of an earlier profile."""
    changed, stale = differing_files(host, wanted), stale_files(host, state, wanted)
    for path, text in changed.items():
        present = _text(host, path)
        if state.files_set.get(path) != present:
            state.files_before[path] = present
        state.files_set[path] = text
    state.save(host)
    for path, text in changed.items():
        host.replace(path, text)
    for path in stale:
        host.replace(path, state.files_before.pop(path, None))
        del state.files_set[path]
    state.save(host)
    if UNIT_FILE in changed:
        host.run("systemctl", "daemon-reload")


def undo(host, state):
    """Gives back what was there. Returns lines for the operator: (what, from, to, why not)."""
    report = []
    for key, before in state.before.items():
        present = host.sysctl(key)
        if present == before:
            continue
        why_not = None
        if present != state.set[key]:
            why_not = f"somebody made it {present} since"
        else:
            try:
                host.set_sysctl(key, before)
            except (OSError, ValueError) as error:
                why_not = _reason(error)
        report.append((key, present, before, why_not))
    for path, ours in state.files_set.items():
        present, before = _text(host, path), state.files_before.get(path)
        if present == before:
            continue
        why_not = None if present == ours else "somebody has changed it since"
        if why_not is None:
            host.replace(path, before)
        report.append((path, "made by tuning/apply", "removed" if before is None else "as it was", why_not))
    host.replace(STATE, None)
    host.run("systemctl", "daemon-reload")
    return report


def _forget(host, state, step):
    """The kernel refused a step: what counts is what it made of it."""
    key = step.setting.key
    present = host.sysctl(key)
    if present == state.before.get(key):
        state.before.pop(key, None)
        state.set.pop(key, None)
    else:
        state.set[key] = present


def _reason(error):
    return error.strerror if isinstance(error, OSError) else str(error)


def _text(host, path):
    try:
        return host.path(path).read_text()
    except OSError:
        return None
