"""A function written down as the list of its calls, or captured as a CUDA graph, and run again."""
