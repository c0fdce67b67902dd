"""How a C or Triton source becomes an operator of PyTorch, and its derivatives; what a kernel computes lies with its mechanism."""
