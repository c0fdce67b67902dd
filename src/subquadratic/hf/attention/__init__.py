"""Our attention in models of transformers: importing this registers it.

```python
import subquadratic.hf.attention
from transformers import AutoModel

model = AutoModel.from_pretrained(name, attn_implementation="subquadratic_favor")  # or subquadratic_linformer, subquadratic_window
subquadratic.hf.attention.configure(model, features=512)
```
"""

from transformers import AttentionInterface, AttentionMaskInterface

from .checking import Report, check
from .interface import FUNCTIONS
from .masks import sight_mask
from .options import NAMES, AttentionOptions, configure

for _name, _function in FUNCTIONS.items():
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sight_mask)

__all__ = ["NAMES", "AttentionOptions", "Report", "check", "configure"]
