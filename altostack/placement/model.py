"""The tables: providers and what they hold, consumers and what they take.

Names (classes, traits, uuids) are keys, so a row can be read without joins. ``Inventory.used`` is the sum of the
allocations of its class on its provider; whoever changes allocations holds the provider's row lock and changes
``used`` in the same transaction, which is what makes overcommitting impossible.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.kit import db, flow, quota
from altostack.kit.db import Row, utcnow
from altostack.kit.resource import private


class PlacementRow(Row):
    __abstract__ = True
    metadata = db.metadata()


flow.tables(PlacementRow.metadata)  # for the story; placement itself has no flows
quota.tables(PlacementRow.metadata)

UUID = sa.String(36)


class Stamped:
    """When the row was made and last changed (for Last-Modified)."""

    created_at: Mapped[datetime] = private(default=utcnow)
    updated_at: Mapped[datetime | None] = private(default=None, onupdate=utcnow)

    @property
    def modified(self) -> datetime:
        return self.updated_at or self.created_at


class ResourceClass(Stamped, PlacementRow):
    __tablename__ = "resource_classes"
    name: Mapped[str] = private(primary_key=True)


class Trait(Stamped, PlacementRow):
    __tablename__ = "traits"
    name: Mapped[str] = private(primary_key=True)


class Provider(Stamped, PlacementRow):
    """Something that has resources. ``root`` is the top of its tree (itself, when it has no parent)."""

    __tablename__ = "providers"
    uuid: Mapped[str] = private(type_=UUID, primary_key=True)
    name: Mapped[str] = private(type_=sa.String(200), unique=True)
    generation: Mapped[int] = private(default=0)
    parent: Mapped[str | None] = private(type_=UUID, default=None, index=True)
    root: Mapped[str] = private(type_=UUID, index=True)


class ProviderTrait(PlacementRow):
    __tablename__ = "provider_traits"
    provider: Mapped[str] = private(type_=UUID, primary_key=True)
    trait: Mapped[str] = private(primary_key=True, index=True)
    __table_args__ = (
        sa.ForeignKeyConstraint(["provider"], ["providers.uuid"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["trait"], ["traits.name"]),
    )


class ProviderAggregate(PlacementRow):
    __tablename__ = "provider_aggregates"
    provider: Mapped[str] = private(type_=UUID, primary_key=True)
    aggregate: Mapped[str] = private(type_=UUID, primary_key=True, index=True)
    __table_args__ = (sa.ForeignKeyConstraint(["provider"], ["providers.uuid"], ondelete="CASCADE"),)


class Inventory(Stamped, PlacementRow):
    """How much of one class a provider has, and how much of that is taken."""

    __tablename__ = "inventories"
    provider: Mapped[str] = private(type_=UUID, primary_key=True)
    resource_class: Mapped[str] = private(primary_key=True)
    total: Mapped[int] = private()
    reserved: Mapped[int] = private()
    min_unit: Mapped[int] = private()
    max_unit: Mapped[int] = private()
    step_size: Mapped[int] = private()
    allocation_ratio: Mapped[float] = private()
    used: Mapped[int] = private(type_=sa.BigInteger(), default=0)
    __table_args__ = (
        sa.ForeignKeyConstraint(["provider"], ["providers.uuid"]),
        sa.ForeignKeyConstraint(["resource_class"], ["resource_classes.name"]),
        # In this order, so that a search for candidates can stop as soon as it has enough.
        sa.Index("ix_inventories_resource_class_provider", "resource_class", "provider"),
    )

    @property
    def capacity(self) -> int:
        """What may be allocated at most."""
        return int((self.total - self.reserved) * self.allocation_ratio)


class Consumer(Stamped, PlacementRow):
    """Who takes resources. It exists only while it has allocations."""

    __tablename__ = "consumers"
    uuid: Mapped[str] = private(type_=UUID, primary_key=True)
    generation: Mapped[int] = private(default=0)
    project_id: Mapped[str] = private(index=True)
    user_id: Mapped[str] = private()
    type: Mapped[str | None] = private(default=None)


class Allocation(PlacementRow):
    __tablename__ = "allocations"
    consumer: Mapped[str] = private(type_=UUID, primary_key=True)
    provider: Mapped[str] = private(type_=UUID, primary_key=True)
    resource_class: Mapped[str] = private(primary_key=True)
    used: Mapped[int] = private()
    created_at: Mapped[datetime] = private(default=utcnow)
    __table_args__ = (
        sa.ForeignKeyConstraint(["consumer"], ["consumers.uuid"]),
        # An inventory in use cannot go away, not even by a race.
        sa.ForeignKeyConstraint(
            ["provider", "resource_class"], ["inventories.provider", "inventories.resource_class"]
        ),
        sa.Index("ix_allocations_provider_resource_class", "provider", "resource_class"),
    )


class Change(PlacementRow):
    """One row a committed change of anything that candidates depend on; see `altostack.placement.world`."""

    __tablename__ = "changes"
    id: Mapped[int] = private(primary_key=True, autoincrement=True)
