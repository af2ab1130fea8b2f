"""[image]"""

from __future__ import annotations

from altostack.kit.config import Settings as Base


class Settings(Base, frozen=True, kw_only=True):
    """max_bytes: the largest image that may be uploaded. disk_formats, container_formats: what may be declared."""

    max_bytes: int = 1 << 40
    disk_formats: tuple[str, ...] = (
        "ami",
        "ari",
        "aki",
        "vhd",
        "vhdx",
        "vmdk",
        "raw",
        "qcow2",
        "vdi",
        "iso",
        "ploop",
    )
    container_formats: tuple[str, ...] = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
    max_properties: int = 128
    max_tags: int = 128
    max_members: int = 128
