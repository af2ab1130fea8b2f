"""A tar archive as it comes in, its files one after the other; compressed or not."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final

from altostack.objectstore.http import CHUNK, Body, Refusal

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_ATTRIBUTES: Final = ("SCHILY.xattr.user.", "LIBARCHIVE.xattr.user.")  # as GNU and BSD tar name them


class Pump:
    """A `Body` as tarfile reads it."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        return self._body.read(size)


class Entry:
    """A regular file in an archive; a `Body`. headers: what its extended attributes say (mime_type, meta.*).

    broken: an attribute's name or value cannot be a header.
    """

    def __init__(self, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        self.name, self.size = info.name, info.size
        self.length: int | None = info.size
        self._file = file
        self.headers: dict[str, str] = {}
        self.broken = False
        for key, value in info.pax_headers.items():
            for prefix in _ATTRIBUTES:
                word = key.removeprefix(prefix)
                if word == "mime_type" and word != key:
                    self.headers["content-type"] = value
                elif word.startswith("meta.") and word != key:
                    self.headers[f"x-object-meta-{word[5:].lower()}"] = value

        for key, value in self.headers.items():
            if not _NAME.fullmatch(key) or any(ord(char) < 32 or ord(char) == 127 for char in value):
                self.broken = True

    def read(self, size: int = -1) -> bytes:
        """Raises Refusal(400) when the archive breaks off inside the file."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        try:
            return self._file.read(size)
        except ConnectionError:  # the client's
            raise
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise Refusal(400, f"Invalid Tar File: {error}") from None


def entries(source: Pump, compression: str) -> Iterator[Entry]:
    """The regular files of the archive; each has to be used before the next. ``compression``: "", "gz" or "bz2".

    Raises tarfile.TarError, OSError, EOFError, zlib.error, ValueError for what is no such archive.
    """
    opened: Any = tarfile.open  # typeshed knows the mode as one of many literals
    try:
        reader = opened(mode=f"r|{compression}", fileobj=source, bufsize=CHUNK, encoding="utf-8")
    except TypeError:  # tarfile looks at the byte behind the end of a header that was cut off
        raise tarfile.ReadError("the header breaks off") from None
    with reader as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # else every name of the archive stays in memory
            file = archive.extractfile(info) if info.isfile() else None
            if file is not None:
                yield Entry(info, file)
