"""The attention of a pretrained model replaced by one of ours, and trained to give what the original gave: `subq distil`.

```python
from subquadratic.hf.distil import distil

distil("models/minilm", "models/minilm-favor", budget=1800)
```
"""

from .run import distil

__all__ = ["distil"]
