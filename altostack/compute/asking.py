"""How a request asks neighbours: never while it holds a transaction, and a refusal is the request's own end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from altostack.compute.neighbours import RemoteError
from altostack.kit.call import Call
from altostack.kit.errors import BadGateway, BadRequest, Conflict, Forbidden


def unhelpful(error: RemoteError) -> Exception:
    """A neighbour's refusal as this request's end: its words where they are about the request."""
    if error.status == 403:
        return Forbidden(error.message)
    if error.status == 409:
        return Conflict(error.message)
    if 400 <= error.status < 500 and error.status not in (401, 408, 429):
        return BadRequest(error.message)
    return BadGateway(f"The {error.service} service did not answer as it should: {error.message}")


@contextmanager
def outside(call: Call) -> Iterator[None]:
    """Ask neighbours here: the transaction begun so far, which wrote nothing, is closed; load rows again after it.

    A neighbour's refusal becomes the request's end.
    """
    call.rollback()
    try:
        yield
    except RemoteError as error:
        raise unhelpful(error) from error
