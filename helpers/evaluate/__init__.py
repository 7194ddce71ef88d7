"""05: asking a model, scores with intervals, rivals."""
