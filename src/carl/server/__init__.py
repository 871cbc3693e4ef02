"""``carl serve``: scores, embeddings and explanations over HTTP."""
