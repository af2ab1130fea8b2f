"""What came out: every test that was to run, with its result and the reason of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_SETUP = re.compile(r"^(?:setUpClass|tearDownClass|setUpModule) \((?P<name>[^)]+)\)$")
_STATUS = {"success": "passed", "xfail": "passed", "skip": "skipped"}  # whatever else there is: failed


@dataclass(frozen=True, kw_only=True)
class Result:
    """One test. status: passed, failed or skipped. text: the reason of a skip, the traceback of a failure."""

    id: str
    status: str
    text: str = ""
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """One line: why it was skipped, or what the failure ended with."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        if not lines:
            return "no reason given"
        if self.status == "skipped":
            return lines[0]
        ends = [
            line
            for line in lines
            if re.match(r"[\w.]+(Error|Exception|Mismatch|Failure|Found)\b|Details:|[\w.]+: ", line)
        ]
        return " ".join(ends[-2:] if ends else lines[-1:])[:400]


def plain(name: str) -> str:
    """A test's id without its labels in brackets."""
    return name.partition("[")[0]


def gather(wanted: Iterable[str], lines: Iterable[dict[str, Any]]) -> list[Result]:
    """The results of the wanted tests, in their order.

    A class that was skipped or failed as a whole says so once; each of its tests gets that result. A test that nobody
    told of has failed: the run ended before it.
    """
    told: dict[str, Result] = {}
    classes: dict[str, Result] = {}
    for line in lines:
        result = Result(
            id=line["id"],
            status=_STATUS.get(line["status"], "failed"),
            text=line["text"] or ("" if line["status"] in _STATUS else f"it ended as {line['status']!r}"),
            seconds=line["seconds"],
        )
        if whole := _SETUP.match(result.id):
            if result.status != "passed":
                classes[whole["name"]] = result
        else:
            told[plain(result.id)] = result
    found = []
    seen: set[str] = set()
    for name in dict.fromkeys(plain(one) for one in wanted):
        mine = told.get(name)
        if mine is None:
            whole_name = name.rpartition(".")[0]
            above = classes.get(whole_name)
            seen.add(whole_name)
            text = "it did not run" if above is None else above.text
            mine = Result(id=name, status="failed" if above is None else above.status, text=text)
        found.append(Result(id=name, status=mine.status, text=mine.text, seconds=mine.seconds))
    # A class may fail to clean up after all of its tests have passed.
    found += [result for name, result in classes.items() if name not in seen and result.status == "failed"]
    return found


def lines(results: list[Result], *, failures_only: bool) -> list[str]:
    """What is printed: failures with their ends, skips by reason, sums."""
    said = []
    for result in results:
        if result.status == "failed":
            said += [f"FAILED   {result.id}", f"         {result.reason}"]
    if not failures_only:
        reasons = Counter(result.reason for result in results if result.status == "skipped")
        said += [f"SKIPPED  {count:4d}  {reason}" for reason, count in reasons.most_common()]
    return [*said, " ".join(f"{count} {status}" for status, count in sums(results).items())]


def sums(results: list[Result]) -> dict[str, int]:
    counted = Counter(result.status for result in results)
    return {status: counted[status] for status in ("passed", "failed", "skipped")}


def document(suite: str, results: list[Result], seconds: float) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "suite": suite,
        "seconds": round(seconds, 1),
        **sums(results),
        "tests": [
            asdict(result) | {"reason": result.reason if result.status != "passed" else ""}
            for result in results
        ],
    }
