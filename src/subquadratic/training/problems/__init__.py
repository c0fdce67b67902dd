"""What a model is trained for: language, classes, sequences to sequences."""
