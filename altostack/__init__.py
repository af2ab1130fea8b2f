"""Altostack: a cloud operating system that speaks the OpenStack APIs."""
