"""Hashing beside the stream: the same hashes, errors that arrive, and threads that end."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator

import pytest

from altostack.image.digest import Hashing

MIB = 1 << 20


def hashers() -> int:
    return sum(thread.name == "image-hash" for thread in threading.enumerate())


@pytest.mark.parametrize("sizes", [[], [0], [1], [MIB] * 3, [MIB] * 12 + [17], [3_000_000] * 5])
def test_hashes_are_those_of_the_whole(sizes: list[int]) -> None:
    chunks = [os.urandom(size) for size in sizes]
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha512()
    assert list(Hashing([md5, sha]).watch(chunks)) == chunks
    assert md5.hexdigest() == hashlib.md5(b"".join(chunks), usedforsecurity=False).hexdigest()
    assert sha.hexdigest() == hashlib.sha512(b"".join(chunks)).hexdigest()
    assert hashers() == 0


def test_threads_end_with_a_stream_that_breaks_or_is_left() -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(10):
            yield bytes(MIB)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        list(Hashing([hashlib.sha512()]).watch(broken()))
    assert hashers() == 0
    left = Hashing([hashlib.sha512()]).watch(bytes(MIB) for _ in range(10))
    for _ in range(7):
        next(left)
    assert hashers() == 1
    left.close()
    assert hashers() == 0


class Refusing:
    """A sink that does not like the sixth chunk."""

    count = 0

    def update(self, chunk: bytes, /) -> None:
        self.count += 1
        if self.count == 6:
            raise ValueError("enough")


def test_an_error_of_a_sink_is_the_streams() -> None:
    with pytest.raises(ValueError, match="enough"):
        list(Hashing([Refusing()]).watch(bytes(MIB) for _ in range(100)))
    with pytest.raises(ValueError, match="enough"):  # also when it comes with the last chunk
        list(Hashing([Refusing()]).watch(bytes(MIB) for _ in range(6)))
    assert hashers() == 0
