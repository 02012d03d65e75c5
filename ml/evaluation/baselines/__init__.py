"""What a model is measured against, all of it fitted on the training part alone."""
