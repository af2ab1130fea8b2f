"""The door between a driver, which is made first and is asked by guests, and the agent, which knows the answers."""

from __future__ import annotations

from altostack.network.drivers.base import MetadataRequest, MetadataResponse, Resolver


class MetadataDoor:
    """A driver's resolver that is given its answers later: ``door.resolver = agent.resolve``.

    Until then guests are told to try again.
    """

    def __init__(self) -> None:
        self.resolver: Resolver | None = None

    def __call__(self, request: MetadataRequest) -> MetadataResponse:
        """Answer one request of a guest."""
        if self.resolver is None:
            return MetadataResponse(status=503, body=b"503 the node is starting\n")
        return self.resolver(request)
