"""Fixtures: scratch machines for the tuning scripts, and the built binary."""

import pytest
from support import BINARY, Scratch


@pytest.fixture
def scratch(tmp_path):
    """A machine made of files, which the tuning scripts take for the real one."""
    return Scratch(tmp_path / "root")


@pytest.fixture(scope="session")
def binary():
    """The gateway as it was built."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: cargo build --release first, or set RINGGATE_BIN")
    return BINARY
