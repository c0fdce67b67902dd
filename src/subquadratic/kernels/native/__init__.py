"""C kernels for the CPU, compiled by the machine's own C compiler when they are first needed, for the processor it has.

``library.py`` compiles and loads them; the C files beside it say what they compute. Nothing is compiled when this is imported.
"""

from .flops import count_when_asked

count_when_asked()
