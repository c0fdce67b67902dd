"""The configuration of each backbone, which can be read and checked without PyTorch."""
