"""What the stand-ins of trackers were sent."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

STAND_INS = Path(__file__).parent / "stand_ins"


def lines_of(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def sent(file: Path) -> dict[tuple[int, str], float]:
    """Return the values by step and name; fails where one came twice."""
    found = [
        ((line["step"], name), value)
        for line in lines_of(file)
        for name, value in line.get("figures", {}).items()
    ]
    assert not [key for key, count in Counter(key for key, _ in found).items() if count > 1]
    return dict(found)
