"""The rooms of the package know each other in one direction only, and never torch."""

import pytest

from tests.support import house
from tests.support.house import ROOT, imports

# Room -> the rooms it may import from beside itself and those open to all.
MAY_KNOW = {
    "models": {"runtime"},
    "data": set(),
    "runtime": set(),
    "interventions": {"models", "data"},
    "judges": {"models", "data"},
    "metrics": {"models", "data"},
    "reports": {"column_table", "runtime"},
    "published": {"metrics", "reports", "runtime"},
    "experiments": {"models", "data", "interventions", "judges", "metrics", "runtime", "reports", "field_table"},
    "exports": {"runtime"},
    "commandline": {"column_table", "experiments", "exports", "models", "runtime", "judges", "published"},
}


# Open to all: what an input error is, and how text and files of others come in.
OPEN = ("errors", "text", "user_files", "gguf_files")


def sources():
    return [*(ROOT / "latent_audit").rglob("*.py"), ROOT / "main.py", *(ROOT / "configs").glob("*.py")]


def test_imports_point_one_way():
    found = []
    for path in (ROOT / "latent_audit").rglob("*.py"):
        room = path.relative_to(ROOT / "latent_audit").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if room in MAY_KNOW and parts[0] == "latent_audit" and len(parts) > 1 and parts[1] != "__version__":
                known = parts[1] in MAY_KNOW[room] | {room, *OPEN}
                found += [] if known else [f"{path.name} in {room} imports {name}"]
    assert not found


def test_torch_is_never_imported():
    assert not [path.name for path in sources() for name in imports(path) if name.split(".")[0] == "torch"]


def test_only_experiments_and_the_command_line_see_a_config():
    apart = {"experiments", "commandline"}
    outside = [path for path in (ROOT / "latent_audit").rglob("*.py") if not apart & set(path.parts)]
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


def room_of_experiments(name):
    """A file at the root of experiments/ is a room, and so is each of its folders."""
    return name.split(".")[2]


def test_experiments_are_five_floors_without_a_circle():
    rooms = house.graph("latent_audit.experiments", room_of_experiments)
    drawn = house.draw(rooms)
    print(drawn)
    assert max(house.floors(rooms).values()) <= 5, drawn
    assert {"organisms", "audit", "tampering", "ras"} <= rooms.keys() and len(rooms) <= 14, drawn


@pytest.mark.parametrize("folder", ["organisms", "audit", "tampering", "ras"])
def test_no_folder_of_experiments_is_a_corridor(folder):
    def room(name):
        """A folder in it is one room."""
        return name.removeprefix(f"latent_audit.experiments.{folder}.").split(".")[0]

    rooms = house.graph(f"latent_audit.experiments.{folder}", room)
    print(house.draw(rooms))
    assert len(rooms) <= 12 and max(house.floors(rooms).values()) <= 5, house.draw(rooms)


def test_no_file_of_the_package_is_in_a_circle():
    assert max(house.floors(house.graph("latent_audit", lambda name: name)).values()) > 5


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="a -> b -> c -> a"):
        house.floors({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert house.floors({"a": {"b"}, "b": set()}) == {"a": 2, "b": 1}
