"""Data planes of the network service: what a node is told (``base``) and the drivers that carry it out."""
