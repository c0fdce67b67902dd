"""What is measured of a model beside its score: where in its context it predicts well, and what it costs at each length."""
