"""What a model costs and how well it predicts: cost estimates before anything is allocated, scores of trained models."""
