"""What a model takes in memory and operations, before anything is allocated."""
