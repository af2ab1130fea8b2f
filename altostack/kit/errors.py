"""The errors a request may end in. A service's dialect renders them in that service's own form.

Every message is written for the person who sent the request: it names the field, the limit or the step.
Nothing secret belongs in one. Status codes: RFC 9110.
"""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A request's stated end: ``code`` (HTTP status), ``title``, ``message`` and, if one is to blame, ``field``.

    ``kind`` is the machine-readable error name where the dialect carries one (``NetworkNotFound``, ...);
    it defaults to the class name. ``detail`` adds keys to the body where the dialect allows it. ``values``: what
    stands in the body where it is wrong, where the dialect quotes it; several when it is one of them.
    """

    code = 500
    title = "Internal Server Error"

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        detail: Mapping[str, object] | None = None,
        code: int | None = None,
    ) -> None:
        self.message = message or self.title
        self.field = field
        self.kind = kind or type(self).__name__
        self.headers = dict(headers or {})
        self.detail = dict(detail or {})
        self.values: tuple[object, ...] = ()
        if code is not None:
            self.code = code
        super().__init__(self.message)


class BadRequest(ApiError):
    code, title = 400, "Bad Request"


class Unauthorized(ApiError):
    code, title = 401, "Unauthorized"


class Forbidden(ApiError):
    code, title = 403, "Forbidden"


class NotFound(ApiError):
    code, title = 404, "Not Found"


class MethodNotAllowed(ApiError):
    code, title = 405, "Method Not Allowed"


class NotAcceptable(ApiError):
    code, title = 406, "Not Acceptable"


class Conflict(ApiError):
    code, title = 409, "Conflict"


class Gone(ApiError):
    code, title = 410, "Gone"


class PreconditionFailed(ApiError):
    code, title = 412, "Precondition Failed"


class TooLarge(ApiError):
    code, title = 413, "Request Entity Too Large"


class UnsupportedMediaType(ApiError):
    code, title = 415, "Unsupported Media Type"


class RangeNotSatisfiable(ApiError):
    code, title = 416, "Range Not Satisfiable"


class OverQuota(ApiError):
    """A request that would pass a quota. ``detail`` holds quota, limit, used and requested."""

    code, title = 403, "Forbidden"


class Unimplemented(ApiError):
    """The API has this operation and Altostack does not (yet): said plainly, never a false success."""

    code, title = 501, "Not Implemented"


class BadGateway(ApiError):
    code, title = 502, "Bad Gateway"


class Unavailable(ApiError):
    code, title = 503, "Service Unavailable"
