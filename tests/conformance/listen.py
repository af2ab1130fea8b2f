"""Run by an environment's Python: turn a subunit stream (stdin) into one JSON line a finished test (stdout).

A line: {"id", "status", "seconds", "text"}; ``text`` is the reason of a skip or the traceback of a failure.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def tell(test: dict[str, Any]) -> None:
    if test["status"] == "exists":
        return
    begun, ended = test["timestamps"]
    text = []
    for name, content in sorted(test["details"].items()):
        if name in ("reason", "traceback") or name.startswith("traceback-"):
            text.append(content.as_text().strip())
    line = {
        "id": test["id"] or "unknown",
        "status": test["status"],
        "seconds": (ended - begun).total_seconds() if begun and ended else 0.0,
        "text": "\n".join(text),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    import subunit  # type: ignore[import-not-found]  # lives in the suite's environment
    from testtools import StreamToDict  # type: ignore[import-not-found]  # likewise

    results = StreamToDict(tell)
    results.startTestRun()
    subunit.ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="noise").run(results)
    results.stopTestRun()


if __name__ == "__main__":
    main()
