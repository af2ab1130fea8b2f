"""Benchmarks. They print figures and assert nothing: run them with ``./alto test bench [name ...]``."""
