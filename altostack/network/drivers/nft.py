"""libnftables in this process: one call is one transaction, and costs a millisecond instead of a fork.

Sources: libnftables(3), libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

from altostack.network.drivers.base import DriverError

_JSON = 1 << 4


def load_library() -> ctypes.CDLL:
    """The shared library, with the signatures of the functions used here.

    :raises DriverError: if it is not installed.
    """
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise DriverError(f"libnftables is missing (Debian package nftables): {error}") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


class Nft:
    """nftables of the namespace that the calling thread is in when this is opened.

    ``step`` is called with a description before each transaction.
    """

    def __init__(self, library: ctypes.CDLL, step: Callable[[str], None]) -> None:
        self._library = library
        self._step = step
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise DriverError("libnftables gives no context")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; further calls have no effect."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def __enter__(self) -> Nft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, script: str) -> None:
        """Run a script in the language of nft(8) as one transaction: all of it or nothing.

        :raises DriverError: with the first complaint of nft.
        """
        self._step(f"nft: {script.splitlines()[0] if script else ''}")
        self._call(script)

    def possible(self, script: str) -> bool:
        """Whether the kernel takes this script; it is run if it does."""
        try:
            self._call(script)
        except DriverError:
            return False
        return True

    def ruleset(self) -> list[dict[str, Any]]:
        """All tables, chains, rules, sets and elements, comparable: sorted and without the kernel's handles."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON)
        try:
            objects = json.loads(self._call("list ruleset"))["nftables"]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        cleaned: list[dict[str, Any]] = [_clean(item) for item in objects if "metainfo" not in item]
        # Rules keep their order within a chain because the sort is stable and does not look into them.
        return sorted(cleaned, key=_sort_key)

    def _call(self, script: str) -> str:
        failed = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        if failed:
            lines = [line for line in error.decode(errors="replace").splitlines() if line.strip(" ^~\t")]
            raise DriverError("nft: " + " | ".join(lines[:2]))
        return output.decode()


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: (
                sorted(map(_clean, item), key=repr)
                if key in ("elem", "set") and isinstance(item, list)
                else _clean(item)
            )
            for key, item in value.items()
            if key != "handle"
        }
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _sort_key(item: dict[str, Any]) -> tuple[str, ...]:
    (kind, body), *_ = item.items()
    place = body.get("chain", body.get("name", ""))
    return (body.get("family", ""), body.get("table", body.get("name", "")), kind, place)
