"""C kernels for the CPU, built with the package for each kind of processor.

``library.py`` chooses and loads them; the C files beside it say what they compute. Nothing is ever compiled here.
"""

from .flops import count_when_asked

count_when_asked()
