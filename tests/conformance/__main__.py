"""Run a suite against a cloud of its own, and tell what came out. `altostack conformance` calls this."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from urllib.parse import urlsplit

from tests.conformance import cloud, placement, report
from tests.conformance.environment import environment
from tests.conformance.suites import OFF, SUITES, Suite
from tests.stand import Stand, running

HERE = Path(__file__).parent


def main() -> int:
    """0 when nothing failed and something passed, 1 otherwise."""
    arguments = _arguments().parse_args()
    suite = SUITES[arguments.suite]
    began = time.monotonic()
    _tell(f"suite {arguments.suite}")
    try:
        home = environment(suite.packages, _tell)
    except subprocess.CalledProcessError as error:
        _tell(f"the environment could not be made: {error}")
        return 1
    with ExitStack() as stack:
        if arguments.keep:
            folder = Path(mkdtemp(prefix="altostack-conformance-"))
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="altostack-conformance-")))
        if arguments.suite == "placement":
            text = placement.SETTINGS
        else:
            url = stack.enter_context(cloud.served(folder))
            text = cloud.SETTINGS + cloud.IMAGES.format(host=urlsplit(url).netloc)
        _tell("starting a simulated cloud")
        stand = stack.enter_context(
            running("--simulate", settings=text, keep=arguments.keep, furnish=cloud.furnish)
        )
        if arguments.suite == "placement":
            variables = placement.variables(stand)
        else:
            variables = _configure(stand, suite, home, folder, url)
        runner = _Runner(home, folder, variables, arguments.suite)
        wanted = _chosen(runner.ids(), suite, arguments.regex)
        if not wanted:
            _tell("no test has such a name")
            return 1
        processes = (
            1 if arguments.suite == "placement" else arguments.concurrency
        )  # its tests want to be alone
        _tell(f"running {len(wanted)} tests, {processes} at a time")
        found = report.gather(wanted, _watch(runner.run(wanted, processes), len(wanted)))
        if arguments.keep:
            _tell(f"kept: {folder} (the suite's logs) and the cloud in {stand.state}")
    print("\n".join(report.lines(found, failures_only=arguments.failures)))
    if arguments.json:
        made = report.document(arguments.suite, found, time.monotonic() - began)
        Path(arguments.json).write_text(json.dumps(made, indent=1) + "\n")
    sums = report.sums(found)
    return 0 if sums["passed"] and not sums["failed"] else 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.conformance")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--regex")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--failures", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json")
    return parser


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _configure(stand: Stand, suite: Suite, home: Path, folder: Path, url: str) -> Mapping[str, str]:
    """Write tempest.conf; the variables that lead Tempest to it."""
    file = folder / "tempest.conf"
    wanted = cloud.settings(cloud.Furnished(stand), suite, folder, url)
    asked = {"file": file, "settings": wanted, "off": list(OFF)}
    variables = {"TEMPEST_CONFIG_DIR": str(folder), "TEMPEST_CONFIG": file.name}
    done = subprocess.run(
        [str(home / "bin" / "python"), str(HERE / "tempest_conf.py")],
        input=json.dumps(asked, default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return variables


def _chosen(names: Sequence[str], suite: Suite, regex: str | None) -> list[str]:
    mine = re.compile("|".join(f"(?:{pattern})" for pattern in suite.tests))
    asked = re.compile(regex or "")
    return [name for name in names if mine.match(name) and asked.search(name)]


def _watch(lines: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The same lines; says meanwhile how far it is."""
    shown = 0.0
    bad = 0
    for number, line in enumerate(lines, 1):
        if line["status"] not in ("success", "skip", "xfail"):
            bad += 1
            _tell(f"failed: {line['id']}")
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            _tell(f"{number} of about {count}, {bad} failed so far")
        yield line


class _Runner:
    """stestr, in the suite's environment."""

    def __init__(self, home: Path, folder: Path, variables: Mapping[str, str], suite: str) -> None:
        self._bin = home / "bin"
        self._folder = folder
        # Proxies of this machine's are none of the suite's business; everything is on loopback.
        proxies = {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
        path = f"{self._bin}:{os.environ.get('PATH', '')}"  # some tests run commands
        kept = {name: value for name, value in os.environ.items() if name not in proxies}
        self._environ = kept | {"PATH": path} | dict(variables)
        if suite == "placement":
            tests, top = HERE / "placement_tests", HERE / "placement_tests"
        else:
            top = next((home / "lib").glob("python3.*/site-packages"))
            tests = top / "tempest" / "test_discover"
        (folder / ".stestr.conf").write_text(
            f"[DEFAULT]\ntest_path={tests}\ntop_dir={top}\ngroup_regex=([^\\.]*\\.)*\n"
        )
        subprocess.run([str(self._bin / "stestr"), "init"], cwd=folder, check=True)

    def ids(self) -> list[str]:
        """Every test that there is."""
        done = subprocess.run(
            [str(self._bin / "stestr"), "list"],
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the tests could not be listed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return [line for line in done.stdout.splitlines() if "." in line and " " not in line]

    def run(self, names: Sequence[str], concurrency: int) -> Iterator[dict[str, Any]]:
        """A line a finished test (see listen.py)."""
        chosen = self._folder / "chosen"
        chosen.write_text("\n".join(names) + "\n")
        with (self._folder / "stestr.log").open("wb") as log:
            words = ["run", "--subunit", "--concurrency", str(concurrency), "--load-list", str(chosen)]
            testing = subprocess.Popen(
                [str(self._bin / "stestr"), *words],
                cwd=self._folder,
                env=self._environ,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            listening = subprocess.Popen(
                [str(self._bin / "python"), str(HERE / "listen.py")],
                stdin=testing.stdout,
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert testing.stdout is not None and listening.stdout is not None
                testing.stdout.close()
                for line in listening.stdout:
                    yield json.loads(line)
            finally:
                for process in (testing, listening):
                    if process.poll() is None:
                        process.terminate()
                    process.wait()


if __name__ == "__main__":
    sys.exit(main())
