"""A program apart: renders chat templates of others, which are programs too, inside limits of time, memory and length.

chat_templates starts it by its path. It knows the standard library and jinja2 alone, reads one request as JSON on
standard input and writes lines of JSON on standard output: a string for each conversation, and at the end {}, or
{"error": why, "index": which conversation} with "by_chance" where the template draws at random.
"""

import datetime
import json
import sys
from collections.abc import Callable
from typing import Any


def limit(memory: int, seconds: int) -> None:
    """Hold this process to so many bytes of address space and seconds of computing, where the system can."""
    try:
        import resource
    except ImportError:
        return
    # A template that kills its process leaves no core file in the user's directory.
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (OSError, ValueError):
            pass


def environment(day: datetime.datetime) -> Any:
    """jinja2 as transformers 5 sets it up for chat templates, but for the clock, which stands still, and for chance.

    Written after transformers.utils.chat_template_utils; tests/data/test_chat_templates.py compares the two.
    """
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
    import jinja2.utils

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's text for training; here it is only written."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

        def _write(self, caller: Any) -> str:
            return caller()

    class Dict:
        """dict without access to the type itself."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any, **kwargs: Any) -> dict:
            return dict.fromkeys(*args, **kwargs)

    class Namespace(jinja2.utils.Namespace):
        """namespace without names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, args = args[0], args[1:]
            attributes = dict(*args, **kwargs)
            for name in attributes:
                check_name(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    def check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no name with an underscore in front, {name!r}")

    def raise_exception(message: Any) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format: Any) -> str:
        return day.strftime(format)

    def by_chance(*args: Any, **kwargs: Any) -> None:
        raise Chance("it draws at random")

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    made.globals |= {"dict": Dict(), "namespace": Namespace}
    made.filters["random"] = made.globals["lipsum"] = by_chance
    return made


class Chance(Exception):
    """A template that would write another text the next time."""


def render(template: Any, conversation: list, variables: dict, most: int) -> str:
    """One conversation as text; ValueError as soon as it has more than `most` characters."""
    # In transformers too, a template is told that there are no tools and no documents.
    stream = template.generate(messages=conversation, **{"tools": None, "documents": None} | variables)
    parts, length = [], 0
    for part in stream:
        length += len(part)
        if length > most:
            raise ValueError(f"it wrote more than {most} characters")
        parts.append(part)
    return "".join(parts)


def write_all(request: dict, write: Callable[[str], None]) -> dict:
    """Write a line for each text that a request asks for; the last line. See chat_templates._render_batch."""
    done, left = 0, request["most_in_all"]
    try:
        template = environment(datetime.datetime.fromisoformat(request["day"])).from_string(request["template"])
        for conversation in request["conversations"]:
            text = render(template, conversation, request["variables"], min(request["most"], left))
            left -= len(text)
            write(json.dumps(text))
            done += 1
    except MemoryError:
        return {"error": f"it needed more than {request['memory'] / 2**30:g} GiB", "index": done}
    except Chance as error:
        return {"error": str(error), "index": done, "by_chance": True}
    except Exception as error:  # A template is a program: it can fail in any way.
        return {"error": str(error)[:300] or type(error).__name__, "index": done}
    return {}


def main() -> None:
    """Answer the one request; the arguments: a number, and the directories in which jinja2 and what it needs lie."""
    # Where a system gives every process the same addresses, this many objects of all small sizes move what follows.
    held = [bytes(size) for size in range(480) for _ in range(int(sys.argv[1]))]
    request = json.loads(sys.stdin.buffer.read())
    # Behind the standard library, which nothing beside jinja2 can then hide.
    sys.path += sys.argv[2:]
    limit(request["memory"], request["seconds"])
    # json writes ASCII: a text may hold half a surrogate pair, which no encoding has.
    print(json.dumps(write_all(request, print)))
    del held


if __name__ == "__main__":
    main()
