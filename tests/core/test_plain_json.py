"""JSON that every reader takes."""

import json
import math

from subquadratic.core.plain_json import to_json


def test_what_json_has_no_word_for_is_null() -> None:
    value = {"a": math.nan, "b": [math.inf, (-math.inf, 1.5)], "c": "NaN", "d": None}
    assert to_json(value, indent=1).splitlines()[1] == ' "a": null,'
    assert json.loads(to_json(value)) == {"a": None, "b": [None, [None, 1.5]], "c": "NaN", "d": None}
    assert to_json({"a": 1.5, "é": [2]}, ensure_ascii=False) == json.dumps({"a": 1.5, "é": [2]}, ensure_ascii=False)
