"""The synthetic tasks by name, for those who want to know them without loading torch."""

TASK_KINDS = {
    "copy": "language",
    "mirror": "language",
    "recall": "language",
    "dyck": "language",
    "variables": "language",
    "listops": "classification",
}
TASKS = tuple(TASK_KINDS)
ALIASES = {"mqar": "recall", "associative_recall": "recall", "mirrored_copy": "mirror"}  # other names that papers use
TASK_HELP = {
    "copy": "repeat a random sequence",
    "mirror": "repeat a random sequence backwards",
    "recall": "look up the values of keys seen before (MQAR)",
    "dyck": "close nested brackets in the right order",
    "variables": "follow the values of variables through a program",
    "listops": "evaluate nested MIN, MAX, MED and SM of digits",
}
