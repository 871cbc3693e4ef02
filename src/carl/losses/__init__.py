"""The objectives as pure functions (mccl, ptd, regression) and the module that wires them together (carl)."""
