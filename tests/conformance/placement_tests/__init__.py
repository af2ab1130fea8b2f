"""Run by an environment's Python: the placement reference's own tests, led to a cloud of ours."""
