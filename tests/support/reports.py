"""Reports as data: what a task would have drawn and written, without drawing it, and what two runs have in common."""

import json
import pathlib
import re


def result(path: pathlib.Path) -> bytes:
    """A written file as two runs of one config must write it: without the box of the run, its date and duration."""
    if path.name == "report.json":
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record.pop("about")["date"]
        return json.dumps(record).encode()
    if path.name == "report.html":
        text, boxes = re.subn(r'<aside class="run".*?</aside>', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert boxes == 1
        return text.encode()
    return path.read_bytes()


def capture(monkeypatch, module) -> dict:
    """A dict that fills with the arguments of `module`'s report, sections by title; figures are handed over undrawn."""
    written = {}

    def render(path, *, sections, **rest):
        written.update(rest | {"path": path, "sections": {section.title: section for section in sections}})

    monkeypatch.setattr(module.html, "render_report", render)
    monkeypatch.setattr(module.figures, "save_figure", lambda figure, directory, name: f"<svg>{name}</svg>")
    return written
