"""Not pytest's: those tests live in an environment of their own."""

collect_ignore = ["placement_tests"]
