"""Training: the options, the defaults per model, and a thin layer over the Hugging Face Trainer.

Importing this package imports neither torch nor transformers, so that the command line can show its help at once.
"""

from .defaults import DEFAULTS, MODELS
from .options import TrainOptions

__all__ = ["DEFAULTS", "MODELS", "TrainOptions"]
