"""The most used WebSocket library of Node.js, npm `ws`, as a client."""

import json
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("mode", ["plain", "deflate"])
def test_npm_ws_chats(gateway, mode):
    result = subprocess.run(
        ["node", "chat.mjs", f"ws://{gateway.client}", mode],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert result.returncode == 0, result.stderr
    got = json.loads(result.stdout)
    assert got["protocol"] == "ringgate.v1.json"
    assert got["extensions"].startswith("permessage-deflate") == (mode == "deflate")
    assert got["contents"] == list(range(100))
    assert got["intact"]
    assert (got["status"], got["pong"], got["code"], got["left"]) == ("delivered", "hello", 4321, "bob-js")
