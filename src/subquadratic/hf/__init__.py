"""Hugging Face: our attention in their models, our models in their tools. The room that imports transformers."""
