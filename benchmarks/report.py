"""docs/performance.md and its figures from what benchmarks.run measured."""

import json
import pathlib

import jinja2
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks import forecast, growth, hardware


def write(out: pathlib.Path, record: dict) -> None:
    """Write performance.md and figures/performance_*.png below `out`."""
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    _bars(record["lines"], figures / "performance_search.png")
    _growth(record["growth"], figures / "performance_growth.png")
    (out / "performance.md").write_text(render(record), encoding="utf-8")


def render(record: dict) -> str:
    """performance.md of what benchmark.json (as `lines`) and benchmark_rest.json hold."""
    searched = [line for line in record["lines"] if line["name"].startswith("search,")]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = pathlib.Path(__file__).with_name("performance.md.j2").read_text(encoding="utf-8")
    text = environment.from_string(source).render(
        **record,
        searched=searched,
        others=[line for line in record["lines"] if line not in searched],
        axes=growth.AXES,
        slopes=growth.exponents(record["growth"]),
        aims=aims(record),
        first_search=[one["seconds"] for one in record["tried"] if one["what"].startswith("first search")],
        hardware=hardware.table(),
        costs=hardware.costs(),
        forecast=_forecast(),
        accelerator=_stored("benchmark_gpu.json"),
        judged=_stored("benchmark_judge.json"),
    )
    return text.rstrip() + "\n"


def _stored(name: str) -> dict | None:
    """A file of docs/ that another benchmark wrote, None where it was not run."""
    path = pathlib.Path(__file__).parents[1] / "docs" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _forecast() -> str:
    """The table of benchmarks.forecast, where it was run."""
    stored = _stored("forecast.json")
    if stored is None:
        return ""
    runs = stored["runs"]
    held = sum(run["least"] <= run["seconds"] <= run["most"] for run in runs)
    errors = [abs(forecast.error(moment)) for run in runs for moment in run["left"]]
    near = sum(error <= forecast.ALLOWED for error in errors)
    said = (
        f"The range held the time of {held} of {len(runs)} runs; {near} of {len(errors)} times left are within "
        f"{forecast.ALLOWED:.0%} of the truth, which all should be. The suite's rounds are a guess before they are run."
    )
    return f"{forecast.table(runs)}\n\n{said}"


def aims(record: dict) -> list[dict]:
    """What was to be reached, set before anything was measured: the aim, what this run found, whether that is it."""

    def of(start: str, rival: str = "") -> list[tuple[str, dict]]:
        lines = [line for line in record["lines"] if line["name"].startswith(start) and line["rival"].startswith(rival)]
        return [(line["name"].removeprefix("search, "), line) for line in lines]

    def told(pairs: list[tuple[str, dict]], column: str) -> str:
        return ", ".join(f"{line[column]:.3g} ({name})" for name, line in pairs)

    def faster(aim: str, least: float, pairs: list[tuple[str, dict]]) -> dict:
        return {"aim": aim, "found": told(pairs, "ratio"), "reached": pairs[0][1]["ratio"] >= least}

    loading, b = record["loading"], "B: tuned torch"
    floor = of("search,", b)
    return [
        {
            "aim": "search of the toy at most 1.6 times the floor",
            "found": told(floor, "over_floor"),
            "reached": floor[0][1]["over_floor"] <= 1.6,
        },
        faster("8 times faster than A on the toy", 8, of("search,", "A:")),
        faster("1.8 times faster than B on the toy", 1.8, floor),
        faster("3 times faster than B on mixed prompt lengths", 3, of("search, toy, mixed", b)),
        faster("5 times faster than A with compile and 16 tokens under every perturbation", 5, of("search and")),
        faster("generation 3 times faster than transformers.generate batched the same way", 3, of("generation")),
        {
            "aim": "loading: parameters + largest stacked tensor + 15 %",
            "found": f"{loading['peak_gigabytes']:.2f} GB where {loading['allowed_gigabytes']:.2f} are allowed",
            "reached": loading["peak_gigabytes"] <= loading["allowed_gigabytes"],
        },
    ]


def _bars(lines, path) -> None:
    searched = [line for line in lines if line["name"].startswith("search,")]
    names = list(dict.fromkeys(line["name"] for line in searched))
    figure = Figure(figsize=(7.2, 0.8 + 1.5 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        own = [line for line in searched if line["name"] == name]
        labels = ["floor", "its products alone", "ours", *(line["rival"] for line in own)]
        values = [
            own[0]["floor_seconds"],
            own[0]["products_seconds"],
            own[0]["ours_seconds"],
            *(line["seconds"] for line in own),
        ]
        axis.barh(labels, values, color=["#BBBBBB", "#BBBBBB", "#0072B2", *["#D55E00"] * len(own)])
        axis.invert_yaxis()
        axis.set_title(name.removeprefix("search, "), fontsize=9, loc="left")
        for place, value in enumerate(values):
            axis.text(value, place, f" {value:.1f}", va="center", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    figure.savefig(path, dpi=150)


def _growth(rows, path) -> None:
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots(2, len(growth.AXES), sharex="col")
    for column, axis_name in enumerate(growth.AXES):
        own = [row for row in rows if row["axis"] == axis_name]
        shown = (("seconds", 1, "seconds"), ("temporaries", 1e6, "temporaries, MB"))
        for row, (what, scale, label) in enumerate(shown):
            axis = axes[row, column]
            axis.loglog([one["value"] for one in own], [one[what] / scale for one in own], marker="o", color="#0072B2")
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xticks([one["value"] for one in own], [f"{one['value']:,}" for one in own])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_locator(NullLocator())
            axis.tick_params(labelsize=7)
            if column == 0:
                axis.set_ylabel(label, fontsize=8)
        axes[1, column].set_xlabel(axis_name, fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    # The page again from what is stored, after its template or another measurement changed.
    docs = pathlib.Path(__file__).parents[1] / "docs"
    rest = json.loads((docs / "benchmark_rest.json").read_text(encoding="utf-8"))
    write(docs, rest | {"lines": json.loads((docs / "benchmark.json").read_text(encoding="utf-8"))})
