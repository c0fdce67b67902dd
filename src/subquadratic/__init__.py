"""Five sub-quadratic transformers behind one contract."""
