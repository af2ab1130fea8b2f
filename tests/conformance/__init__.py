"""What others say that correct is: their test suites against a cloud of ours (`altostack conformance`)."""
