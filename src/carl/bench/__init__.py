"""The evidence: every method with the same backbone, data, budget and seeds, one cell at a time."""
