"""Tokenizers: bytes, text, values, and what trains and loads them."""
