"""The HTTP server of the object store."""
