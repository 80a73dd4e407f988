"""The import graph of the package: rooms, floors and arrows, read from the source as text."""

import ast
import pathlib
from collections.abc import Callable, Iterable, Mapping

ROOT = pathlib.Path(__file__).parents[2]


def imports(path: pathlib.Path) -> Iterable[str]:
    """Dotted names of everything a file imports, relative imports aside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def files(package: str) -> dict[str, pathlib.Path]:
    """Dotted name -> path of every file of a package."""
    paths = (ROOT / package.replace(".", "/")).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.stem != "__init__"}


def graph(package: str, room_of: Callable[[str], str]) -> dict[str, set[str]]:
    """Room -> the rooms it imports from; room_of: dotted name of a file -> the room it belongs to."""
    there = files(package)
    rooms: dict[str, set[str]] = {room_of(name): set() for name in there}
    for name, path in there.items():
        for imported in imports(path):
            known = next((one for one in (imported, imported.rpartition(".")[0]) if one in there), None)
            if known and room_of(known) != room_of(name):
                rooms[room_of(name)].add(room_of(known))
    return rooms


def floors(rooms: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> its floor: one above the highest room it imports from, 1 for one that imports from none.

    Raises ValueError that names the rooms of a circle.
    """
    found: dict[str, int] = {}

    def floor(room: str, below: tuple[str, ...] = ()) -> int:
        if room in below:
            raise ValueError(f"a circle: {' -> '.join((*below, room))}")
        if room not in found:
            found[room] = 1 + max((floor(one, (*below, room)) for one in rooms[room]), default=0)
        return found[room]

    for room in rooms:
        floor(room)
    return found


def draw(rooms: Mapping[str, set[str]]) -> str:
    """The graph in words, the top floor first, with its numbers in the first line."""
    at = floors(rooms)
    lines = [f"{len(rooms)} rooms, {max(at.values())} floors, {sum(map(len, rooms.values()))} arrows"]
    for room in sorted(rooms, key=lambda one: (-at[one], one)):
        lines.append(f"  floor {at[room]}  {room}: {', '.join(sorted(rooms[room])) or '-'}")
    return "\n".join(lines)
