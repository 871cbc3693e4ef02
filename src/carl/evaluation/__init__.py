"""How good a model is: scores, the ridge probe and VADER, transfer to other labels, pictures, the report."""
