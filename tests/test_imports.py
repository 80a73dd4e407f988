"""The rooms of the package know each other in one direction only, and never torch."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# Room -> the rooms it may import from beside itself; `errors` is open to all.
MAY_KNOW = {
    "models": {"runtime"},
    "data": set(),
    "runtime": set(),
    "interventions": {"models", "data"},
    "judges": {"models", "data"},
    "metrics": {"models", "data"},
    "reports": {"runtime"},
    "experiments": {"models", "data", "interventions", "judges", "metrics", "runtime", "reports"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def sources():
    return [*(ROOT / "latent_audit").rglob("*.py"), ROOT / "main.py", *(ROOT / "configs").glob("*.py")]


def test_imports_point_one_way():
    found = []
    for path in (ROOT / "latent_audit").rglob("*.py"):
        room = path.relative_to(ROOT / "latent_audit").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if room in MAY_KNOW and parts[0] == "latent_audit" and len(parts) > 1:
                known = parts[1] in MAY_KNOW[room] | {room, "errors"}
                found += [] if known else [f"{path.name} in {room} imports {name}"]
    assert not found


def test_torch_is_never_imported():
    assert not [path.name for path in sources() for name in imports(path) if name.split(".")[0] == "torch"]


def test_only_experiments_see_a_config():
    outside = [path for path in (ROOT / "latent_audit").rglob("*.py") if "experiments" not in path.parts]
    assert not [path.name for path in outside for name in imports(path) if name.startswith("ml_collections")]


def test_organisms_are_made_without_a_config():
    room = (ROOT / "latent_audit" / "experiments" / "organisms").rglob("*.py")
    # Not by way of a module that sees one either.
    apart = {"organisms", "respond"}
    found = []
    for path in room:
        for name in imports(path):
            parts = name.split(".")
            inside = parts[:2] == ["latent_audit", "experiments"] and len(parts) > 2
            if parts[0] == "ml_collections" or (inside and parts[2] not in apart):
                found.append(f"{path.name} imports {name}")
    assert not found
