"""Builds the Debian package from [package.metadata.deb] of Cargo.toml with dpkg-deb alone.

cargo-deb takes minutes to install, and a release build to run; what it would read is all in Cargo.toml. So the tests build the same
package from the same metadata with this, and with cargo-deb as well where it is installed.
"""

import gzip
import pathlib
import shutil
import tomllib

from support import ROOT, run


def metadata():
    """The tables [package] and [package.metadata.deb]."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    return package, package["metadata"]["deb"]


def assets(binary):
    """(source, path in the package, mode) of every file; patterns are spread out."""
    for pattern, target, mode in metadata()[1]["assets"]:
        sources = [binary] if pattern == "target/release/ringgate" else sorted(ROOT.glob(pattern))
        assert sources, f"Cargo.toml: nothing matches {pattern}"
        for source in sources:
            yield source, target + source.name if target.endswith("/") else target, int(mode, 8)


def build(binary, folder):
    """Builds the package in `folder`; returns its path."""
    package, deb = metadata()
    tree = folder / "tree"
    for source, target, mode in assets(binary):
        path = tree / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if target.startswith("usr/share/man/"):
            path = path.with_name(path.name + ".gz")
            path.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
        else:
            shutil.copy(source, path)
        path.chmod(mode)
    control = tree / "DEBIAN"
    control.mkdir()
    description = deb["extended-description"].strip().splitlines()
    fields = {
        "Package": deb["name"],
        "Version": f"{package['version']}-1",
        "Architecture": run("dpkg", "--print-architecture").stdout.strip(),
        "Maintainer": deb["maintainer"],
        "Section": deb["section"],
        "Priority": deb["priority"],
        "Depends": deb["depends"].replace("$auto", "libc6"),
        "Recommends": deb["recommends"],
        "Suggests": deb["suggests"],
        "Description": "\n ".join([package["description"], *description]),
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    (control / "conffiles").write_text("".join(f"{path}\n" for path in deb["conf-files"]))
    for script in sorted((ROOT / deb["maintainer-scripts"]).iterdir()):
        shutil.copy(script, control / script.name)
        (control / script.name).chmod(0o755)
    for path in [tree, *(path for path in tree.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
    out = pathlib.Path(folder, "ringgate.deb")
    result = run("dpkg-deb", "--build", "--root-owner-group", "-Zgzip", "-z1", tree, out)
    assert result.returncode == 0, result.stderr
    return out
