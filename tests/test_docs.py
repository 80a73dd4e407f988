"""What the pages, docstrings and comments of this project name is there: files, modules, sections of the method."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("latent_audit", "configs", "benchmarks", "tests")
# A page names files from the root on, a docstring also from its package or room on.
ABOVE = (ROOT, ROOT / "latent_audit", ROOT / "latent_audit" / "experiments")
PAGES = [
    *(page for place in (".", "docs", "dev") for page in sorted((ROOT / place).glob("*.md"))),
    *ROOT.glob("docs/figures/*.svg"),
]
SOURCES = [ROOT / "main.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]
NAMES = {file.name for place in (*ROOMS, "docs", "dev") for file in (ROOT / place).rglob("*.*")} | {"main.py"}
TEMPLATES = sorted((ROOT / "benchmarks").glob("*.j2"))
METHOD = ROOT / "docs" / "method.md"

# A text that ends in one of the first three can only be a file of this tree; other endings also name what a run writes.
PATH = re.compile(r"(?<![\w/.\-*])((?:[\w.\-]+/)*[\w\-]+\.(?:py|md|j2|svg|png|ya?ml|toml|txt))(?![\w/])")
OURS = re.compile(r"\.(?:py|md|j2)$|^(?:latent_audit|configs|benchmarks|tests|docs|dev|\.github)/")
FOLDER = re.compile(r"(?<![\w/.\-*])((?:latent_audit|configs|benchmarks|tests|docs|dev)(?:/\w+)*/)(?![\w.*])")
LINK = re.compile(r"\]\(([^)#:]+)\)")
MODULE = re.compile(r"(?<![\w./-])((?:benchmarks|tests|latent_audit)(?:\.(?!json\b)\w+)+)")
# "reports.figures" in a docstring; ras.csv is a file of a run.
IN_ROOM = re.compile(
    r"(?<![\w./`\"'(-])((?:models|data|interventions|judges|metrics|reports|runtime|experiments)\.(?!csv|json)\w+)"
)
COMMENT = re.compile(r"(?:^|\s)#:? (.*)")
ITEM = r"\d+(?: \([^)]*\))?"
SECTIONS = re.compile(rf"(sections?) ({ITEM}(?:(?:, | and | to | or ){ITEM})*)")
OF_METHOD = re.compile(rf"method\.md\)?,? (?:({SECTIONS.pattern})|\"([^\"]+)\")")
OLD_NAME = re.compile(r"`[^`]+`(?=(?:,\s+`[^`]+`)*\s+->)")


def headings(method: str) -> tuple[set[int], set[str]]:
    """Numbers and titles of the method's sections."""
    found = re.findall(r"^## (?:(\d+)\. )?(.+?)(?: \[.*)?$", method, re.M)
    return {int(number) for number, _ in found if number}, {title for _, title in found}


def numbers(kind: str, items: str) -> set[int]:
    """("sections", "0 to 2, 7 and 8") -> {0, 1, 2, 7, 8}; of "section 4, 24 prompts" only the first number counts."""
    items = re.sub(r" \([^)]*\)", "", items)
    if kind == "section":
        return {int(re.match(r"\d+", items)[0])}
    ends = [[int(end) for end in part.split(" to ")] for part in re.split(r", | and | or ", items)]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}


def is_there(name: str, beside: pathlib.Path) -> bool:
    return name in NAMES or any((place / name).exists() for place in (*ABOVE, beside))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of ours, or stands in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            return length == len(parts) or parts[length] in file.read_text(encoding="utf-8")
    return False


def problems(text: str, beside: pathlib.Path, method: str, *, is_method: bool = False) -> list[str]:
    """Every name in `text` that leads nowhere; `beside` is the folder that links start from."""
    text = re.sub(r"https?://[^\s)]+", "", " ".join(text.split()))
    known, titles = headings(method)
    paths = {path for path in PATH.findall(text) if OURS.search(path)} | set(FOLDER.findall(text))
    lost = [f"no file {path}" for path in sorted(paths) if not is_there(path, beside)]
    lost += [f"no file {link} to link to" for link in sorted(set(LINK.findall(text))) if not (beside / link).exists()]
    lost += [f"no module {name}" for name in sorted(set(MODULE.findall(text))) if not is_module(name)]
    lost += [
        f"no module {name}" for name in sorted(set(IN_ROOM.findall(text))) if not is_module(f"latent_audit.{name}")
    ]
    named = [(found[2], found[3]) for found in OF_METHOD.finditer(text) if found[1]]
    named += SECTIONS.findall(text) if is_method else []
    unknown = {number for kind, items in named for number in numbers(kind, items)} - known
    lost += [f"no section {number} of the method" for number in sorted(unknown)]
    quoted = {found[4] for found in OF_METHOD.finditer(text) if found[4]}
    return lost + [f"no section {title!r} of the method" for title in sorted(quoted - titles)]


def spoken(path: pathlib.Path) -> str:
    """The docstrings and comments of a source; of all but tests, whose texts are made up, its other strings as well."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    comments = [found[1] for line in source.splitlines() if (found := COMMENT.search(line))]
    if path.is_relative_to(ROOT / "tests"):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    else:
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    # A sentence of a comment runs over lines.
    return "\n".join([" ".join(comments), *texts])


@pytest.mark.parametrize("page", [*PAGES, *TEMPLATES], ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = OLD_NAME.sub("", text)
    beside = ROOT / "docs" if page.suffix == ".j2" else page.parent
    assert not problems(text, beside, METHOD.read_text(encoding="utf-8"), is_method=page == METHOD)


def test_what_docstrings_and_comments_name_is_there():
    method = METHOD.read_text(encoding="utf-8")
    found = [
        f"{source.relative_to(ROOT)}: {problem}"
        for source in SOURCES
        for problem in problems(spoken(source), source.parent, method)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see experiments/nowhere.py and metrics/lvs.py", ["no file experiments/nowhere.py"]),
        ("units are those of no_such_file.py, verdict.py", ["no file no_such_file.py"]),
        ("docs/figures/none.svg", ["no file docs/figures/none.svg"]),
        ("![a picture](figures/none.svg), [a page](README.md)", ["no file figures/none.svg to link to"]),
        ("helpers lie in tests/nowhere/", ["no file tests/nowhere/"]),
        ("python -m benchmarks.nothing", ["no module benchmarks.nothing"]),
        ("latent_audit.metrics.lvs.lvs, latent_audit.metrics.lvs.gone", ["no module latent_audit.metrics.lvs.gone"]),
        ("as in runtime.gone, runtime.files and metrics.csv", ["no module runtime.gone"]),
        ("docs/method.md section 3.", ["no section 3 of the method"]),
        ("docs/method.md\n    sections 0 (idea), 1 and 4", ["no section 4 of the method"]),
        ("[docs/method.md](docs/method.md), sections 0 to 3", ["no section 3 of the method"]),
        ('docs/method.md, "Somewhere"', ["no section 'Somewhere' of the method"]),
        ('docs/method.md section 2, 24 prompts; docs/method.md, "Second"', []),
        ("a run writes organism/organism.json and figures/one.png", []),
    ],
)
def test_a_name_that_leads_nowhere_is_found(text, expected):
    method = "# Method\n\n## 0. First\n\n## 1. Other [P1]\n\n## 2. Second\n"
    assert problems(text, ROOT, method) == expected


def test_the_method_knows_its_own_sections():
    assert problems("see section 7", ROOT, "## 0. First\n", is_method=True) == ["no section 7 of the method"]


def test_an_old_name_in_the_changelog_need_not_exist():
    assert OLD_NAME.sub("", "`experiments/a.py`, `experiments/b.py` -> `main.py`") == ",  -> `main.py`"
