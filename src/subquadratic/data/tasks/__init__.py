"""Synthetic tasks: items made from nothing but their number, so that nothing is stored and a resumed run sees the same ones.

| task        | what is asked                                | options (default)                                              |
|-------------|----------------------------------------------|----------------------------------------------------------------|
| `copy`      | a random sequence again                      | `symbols` (64)                                                 |
| `mirror`    | a random sequence backwards                  | `symbols` (64)                                                 |
| `recall`    | values of keys that came with them before    | `pairs` (length // 16), `keys`, `values` (128), `power` (0.01) |
| `dyck`      | the closing brackets that are determined     | `kinds` (4), `depth` (16)                                      |
| `variables` | what `print` prints in a program             | `variables` (3)                                                |
| `listops`   | the value of an expression: one of 10 classes | `depth`, `arguments` (10), `min_length` (length // 4)         |

All but listops have items of exactly `length` tokens; an expression has at most that many.
"""

from .task import Task, make_task

__all__ = ["Task", "make_task"]
