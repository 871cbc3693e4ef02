"""How good a model is: scores, the ridge probe and VADER to compare with, pictures and the run's report."""
