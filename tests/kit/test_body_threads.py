"""Many threads may be the first to read a kind of body: the process lives."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: the mistake this guards against ends the process.
PROGRAM = """
import sys, threading
from typing import Annotated
import msgspec
from altostack.kit import body
from altostack.kit.resource import struct

sys.setswitchinterval(1e-6)
text = Annotated[str, msgspec.Meta(max_length=9)]
raw = msgspec.json.encode({f"f{i}": {"k": {f"a{j}": "x" for j in range(10)}} for i in range(8)})
for n in range(int(sys.argv[1])):
    inner = [struct(f"I{n}{i}", [(f"a{j}", text | int | None, False) for j in range(10)]) for i in range(8)]
    kind = struct(f"S{n}", [(f"f{i}", dict[str, inner[i]], True) for i in range(8)])
    gate = threading.Barrier(6)

    def read(way):
        gate.wait()
        body.decode(raw, kind) if way else body.convert(msgspec.json.decode(raw), kind)

    threads = [threading.Thread(target=read, args=(way % 2,)) for way in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""


def test_first_readers_in_parallel() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "100"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
