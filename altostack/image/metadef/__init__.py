"""Metadata definitions: a catalogue of the properties that images, flavors, volumes and others understand.

A namespace holds objects, properties, tags, and the resource types it is meant for; all of these are `Definition` rows
of one shape: a name within the namespace and what stands under it. Source: Image Service API v2, metadata definitions.
"""

from altostack.image.metadef import namespace, parts, types

ROUTES = (*namespace.ROUTES, *parts.ROUTES, *types.ROUTES)
