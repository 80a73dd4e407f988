"""HarmBench's JSON objects by BehaviorID as rows: test cases, completions and targets (arXiv 2402.04249).

Test cases: id -> list of texts. Completions: id -> list of objects with test_case and generation. Targets: id -> text.
What a behaviour is stands in another file, by the same id (joins.py).
"""

import pathlib
from typing import Any

ID, TEST_CASE, TARGET = "BehaviorID", "test_case", "target"
# The name that HarmBench gives a file of one behaviour's test cases, which any list under one key would look like.
TEST_CASES_FILE = "test_cases.json"


def rows_of(path: pathlib.Path, value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """One object a test case, completion or target; None where the object is not by id.

    An id without test cases, or whose are null, gives a row without one, which is counted and dropped as empty.
    """
    if not value:
        return None
    if all(isinstance(item, str) for item in value.values()):
        return [{ID: key, TARGET: item} for key, item in value.items()]
    if not all(isinstance(item, list) for item in value.values()):
        return None
    items = [item for of_id in value.values() for item in of_id]
    if all(isinstance(item, dict) and TEST_CASE in item for item in items) and items:
        return [{ID: key, **item} for key, of_id in value.items() for item in of_id or [{TEST_CASE: None}]]
    several = len(value) > 1 or path.name == TEST_CASES_FILE
    if several and items and all(item is None or isinstance(item, str) for item in items):
        return [{ID: key, TEST_CASE: item} for key, of_id in value.items() for item in of_id or [None]]
    return None
