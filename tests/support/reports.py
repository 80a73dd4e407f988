"""Reports as data: what a task would have drawn and written, without drawing it."""


def capture(monkeypatch, module) -> dict:
    """A dict that fills with the arguments of `module`'s report, sections by title; figures are handed over undrawn."""
    written = {}

    def render(path, *, sections, **rest):
        written.update(rest | {"path": path, "sections": {section.title: section for section in sections}})

    monkeypatch.setattr(module.html, "render_report", render)
    monkeypatch.setattr(module.figures, "save_figure", lambda figure, directory, name: f"<svg>{name}</svg>")
    return written
