"""What validating a token costs with 0, 1,000 and 100,000 revocations, and how many queries identity's requests take.

In process, without HTTP: the service's own time, as the processor's clock counts it.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy import event

from altostack.identity.token import Revocation
from altostack.inprocess import InProcessCloud
from altostack.kit.clients import Response

_BATCH = 10_000


def main() -> None:
    """Print a line a number of revocations, then a line a kind of request."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3000)
    options.add_argument("--revocations", type=int, nargs="*", default=(0, 1_000, 100_000))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="altostack-bench-") as folder:
        cloud = InProcessCloud(Path(folder), services=("identity",), hosts=())
        have, first = 0, (0.0, 0.0)
        for number in sorted(chosen.revocations):
            revoke(cloud, number - have)
            have = number
            warm, cold = validation(cloud, chosen.rounds), validation(cloud, chosen.rounds, cold=True)
            first = first if first[0] else (warm, cold)
            print(
                f"validation with {number:7} revocations: warm {warm * 1e6:6.1f} us, x {warm / first[0]:.2f}; "
                f"when anything has changed {cold * 1e6:6.1f} us, x {cold / first[1]:.2f}"
            )
        for name, count in queries(cloud).items():
            print(f"{name:38} {count} queries")
        cloud.stop()


def ask(cloud: InProcessCloud, method: str, path: str, body: object = None, **headers: str) -> Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {
        "Content-Type": "application/json"
    }
    raw = None if body is None else msgspec.json.encode(body)
    answer = cloud.cloud.transport("identity").request(method, path, sent, raw)
    answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status}")
    return answer


def revoke(cloud: InProcessCloud, count: int) -> None:
    """So many revocations more, of tokens that nobody has."""
    expires = time.time() + 3600
    database = cloud.cloud.runtimes["identity"].db
    for start in range(0, count, _BATCH):
        rows = [
            {"audit_id": secrets.token_urlsafe(16), "chain": True, "expires_at": expires}
            for _ in range(min(_BATCH, count - start))
        ]
        database.write(lambda session, rows=rows: session.execute(sa.insert(Revocation), rows))  # type: ignore[misc] # one batch each
    cloud.cloud.epoch.bump()


def validation(cloud: InProcessCloud, rounds: int, *, cold: bool = False) -> float:
    """Seconds of processor time for one validation: the best of five runs. cold: nothing is remembered of the token."""
    token = cloud.token("admin")
    found = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds // 10 if cold else rounds):
            if cold:
                cloud.cloud.epoch.bump()
            ask(cloud, "GET", "/v3/auth/tokens", X_Auth_Token=token, X_Subject_Token=token)
        found.append((time.process_time() - began) / (rounds // 10 if cold else rounds))
    return min(found)


def queries(cloud: InProcessCloud) -> dict[str, int]:
    """Kind of request -> statements that reach the database, when nothing is new."""
    token = cloud.token("admin")
    user = {"name": "admin", "domain": {"id": "default"}, "password": cloud.passwords["admin"]}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    by_password = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    by_token = {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}
    kinds = {
        "a token validated": lambda: ask(
            cloud, "GET", "/v3/auth/tokens", X_Auth_Token=token, X_Subject_Token=token
        ),
        "a token issued by password": lambda: ask(cloud, "POST", "/v3/auth/tokens", {"auth": by_password}),
        "a token issued by rescope": lambda: ask(cloud, "POST", "/v3/auth/tokens", {"auth": by_token}),
    }
    engine = cloud.cloud.runtimes["identity"].db.engine
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    found = {}
    event.listen(engine, "before_cursor_execute", note)
    try:
        for name, send in kinds.items():
            send()
            seen.clear()
            send()
            found[name] = len(seen)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return found


if __name__ == "__main__":
    main()
