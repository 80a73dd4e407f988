"""What `pip install .` installs: all of the package, nothing else, with the dependencies that are written down."""

import pathlib
import re
import tomllib

import latent_audit

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUP = PROJECT["tool"]["setuptools"]


def lines(name: str) -> list[str]:
    """Requirements of a file, without comments and without other files that it names."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "-"))]


def test_dependencies_are_those_of_the_requirements_files():
    assert PROJECT["project"]["dependencies"] == lines("requirements.txt")
    assert PROJECT["project"]["optional-dependencies"]["test"] == lines("requirements-test.txt")


def test_every_directory_with_sources_is_a_package_and_nothing_else():
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "latent_audit").rglob("*.py")}
    assert set(SETUP["packages"]) == {".".join(folder.parts) for folder in folders} | {"latent_audit.configs"}
    assert SETUP["package-dir"] == {"latent_audit": "latent_audit", "latent_audit.configs": "configs"}
    assert not (ROOT / "latent_audit" / "configs").exists(), "it would hide configs/ of the checkout"


def test_files_that_are_no_sources_are_package_data():
    others = {
        file.relative_to(ROOT / "latent_audit").as_posix()
        for file in (ROOT / "latent_audit").rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    named = {
        file.relative_to(ROOT / "latent_audit").as_posix()
        for package, patterns in SETUP["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert named == others and {"py.typed", "reports/page/report.html.j2"} <= others


def test_the_version_is_written_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    assert SETUP["dynamic"]["version"] == {"attr": "latent_audit.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", latent_audit.__version__)
    elsewhere = [
        path.name
        for path in (ROOT / "latent_audit").rglob("*.py")
        if f'"{latent_audit.__version__}"' in path.read_text(encoding="utf-8") and path.parent.name != "latent_audit"
    ]
    assert not elsewhere


def test_the_console_script_is_the_main_of_the_package():
    assert PROJECT["project"]["scripts"] == {"latent-audit": "latent_audit.__main__:main"}
    assert "def main() -> int:" in (ROOT / "latent_audit" / "__main__.py").read_text(encoding="utf-8")
