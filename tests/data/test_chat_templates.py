"""Templates rendered in the limited process against transformers' own rendering, and what such a process refuses."""

import datetime
import os
import shutil
import subprocess
import sys
import time

import pytest
from transformers.utils import chat_template_utils

from latent_audit.data import chat_templates
from latent_audit.errors import InputError

# Templates of our own in the manner of each family's, with the constructs that theirs use.
TEMPLATES = {
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama 3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|head|>' + "
        "message['role'] + '<|end_head|>\\n\\n' + message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|end_head|>\\n\\n' }}{% endif %}"
    ),
    "llama 3.1": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- A comment of several
    lines -#}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + strftime_now(" %A %j") + "\\n\\n" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|end_head|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|end_head|>\\n\\n' }}
{%- endif %}
""",
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
        "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<turn>' + role + '\\n' + message['content'] | trim + '<end>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<turn>model\\n'}}{% endif %}""",
    "gemma 3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (first if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<turn>model\\n'}}
{%- endif -%}
""",
    "mistral": """{%- set ns = namespace(index=0, last=-1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{% set ns.last = loop.index0 %}{% set ns.index = ns.index + 1 %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages | rejectattr("role", "equalto", "system") %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and loop.last %}{{- "[TOOLS] " + tools | tojson }}{%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token}}
    {%- endif %}
{%- endfor %}
{{- "\\n" + ns.last | string + " of " ~ ns.index }}
""",
    "qwen 3": """{%- for message in messages[::-1] %}{% if loop.first %}{% set last = message %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{% endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "phi": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + "
        "'<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}"
    ),
    "training": (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}\n  {% if loop.index > 5 %}{% break %}{% endif %}"
        "{{ message['content'] }}\n{% endif %}\n{% endfor %}\n"
    ),
    "macros": """{% macro turn(message, tail='') %}<{{ message.role | upper }}>{{ caller() }}{{ tail }}{% endmacro %}
{% for message in messages -%}
  {% call turn(message, tail=loop.nextitem is defined) %}{{ message.content | replace('a', 'b') }}{% endcall %}
{%- endfor %}
{{ messages | tojson(indent=2) }} {{ dict(a=1) | tojson }} {{ messages | map(attribute='role') | join(',') }}
{% filter upper %}done{% endfilter %} {{ documents is none }} {{ undefined_thing }}{{ '%05.1f' | format(3.14159) }}""",
    "vicuna": (
        "{% if messages[0]['role'] != 'system' %}{{ 'A chat between two. ' }}{% endif %}{% for message in messages %}"
        "{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: '}.get(message.role, '') ~ message.content ~ "
        "(eos_token if message.role == 'assistant' else ' ') }}{% endfor %}"
        "{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
    ),
}
PROMPTS = ("Hi", "  Caf\u00e9 \u4f60\u597d \U0001f642 a\u0301\u202e <b>'\"&  \n", "{{ 7 * 7 }} {% raw %}\\n\t", "")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def turns(*texts):
    return tuple(zip(("user", "assistant") * len(texts), texts, strict=False))


def render(template, *conversations, prefix=True, day="2024-07-26", **variables):
    return chat_templates.render(
        template,
        conversations or [turns("Hi")],
        variables=tuple((SPECIAL | variables).items()),
        day=day,
        add_generation_prompt=prefix,
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_equal_to_transformers(name, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    conversations = [turns(prompt) for prompt in PROMPTS] + [turns(prompt, "Sure.\n", "More?") for prompt in PROMPTS]
    for options in ({"prefix": True, "enable_thinking": False}, {"prefix": False}):
        rest = {key: value for key, value in options.items() if key != "prefix"}
        expected, _ = chat_template_utils.render_jinja_template(
            [[{"role": role, "content": text} for role, text in each] for each in conversations],
            chat_template=TEMPLATES[name],
            add_generation_prompt=options["prefix"],
            **SPECIAL,
            **rest,
        )
        assert list(render(TEMPLATES[name], *conversations, **options)) == expected


@pytest.mark.parametrize(
    "template, message",
    [
        ("{{ ['a', 'b', 'a'] | random }}", "is not deterministic: it draws at random"),
        ("{{ lipsum(1) }}", "is not deterministic: it draws at random"),
        ("{{ messages | map('upper') }}", "is not deterministic: run twice"),
        ("{{ 'a' * 10**10 }}", "needed more than 1 GiB"),
        ("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "wrote more than 1048576 characters"),
        ("{{ 'a' * 2000000 }}", "wrote more than 1048576 characters"),
        ("{{ raise_exception('never') }}", "fails on a conversation of the roles user: never; give one with"),
        ("{{ raise_exception('') }}", "roles user: TemplateError"),
        ("{% if %}", "fails on a conversation of the roles user: Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ namespace(_a=1) }}", "underscore"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("(" * 3 + "{{ " + "(" * 10**5 + "}}", "fails on a conversation"),
        ("{{ 10**99999 }}", "Exceeds the limit"),
        ('{{ "\\ud800" }}', "writes half a surrogate pair"),
    ],
)
def test_what_a_template_may_not_do(template, message):
    with pytest.raises(InputError) as error:
        render(template)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "template",
    ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ (7**(10**8)) % 10 }}"],
)
def test_a_template_that_never_ends_is_stopped(template, monkeypatch):
    monkeypatch.setattr(chat_templates, "MOST_SECONDS", 1)
    with pytest.raises(InputError, match="it took more than 1 s; give one with"):
        render(template)


def test_systems_without_a_limit_on_computing_time(monkeypatch):
    monkeypatch.setattr(chat_templates, "MOST_SECONDS", 100)
    monkeypatch.setattr(chat_templates, "MOST_WAIT", 1)
    start = time.monotonic()
    with pytest.raises(InputError, match="it took more than 1 s; give one with"):
        render("{{ (7**(10**8)) % 10 }}")
    assert time.monotonic() - start < 10


def test_addresses_differ_where_the_system_makes_them_equal(monkeypatch, tmp_path):
    if not shutil.which("setarch") or subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode:
        pytest.skip("a system that cannot give its processes equal addresses")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setarch -R "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(chat_templates.sys, "executable", str(python))
    for printed in ("joiner()", "dict", "lipsum", "messages | map('upper')"):
        with pytest.raises(InputError, match="is not deterministic: run twice"):
            render("with equal addresses: {{ " + printed + " }}")


def test_memory_taken_bit_by_bit(monkeypatch):
    monkeypatch.setattr(chat_templates, "MOST_MEMORY", 2**27)
    doubling = "{% set s = namespace(a='a') %}{% for i in range(99) %}{% set s.a = s.a + s.a %}{% endfor %}"
    with pytest.raises(InputError, match="it needed more than 0.125 GiB"):
        render(doubling)


def test_the_conversation_at_fault_is_named():
    refusing = "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    assert render(refusing) == ("",)
    with pytest.raises(InputError, match="of the roles user, assistant: no"):
        render(refusing, turns("a"), turns("a", "b"), turns("c"))


def test_nothing_of_this_process_reaches_a_template(tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit('another jinja2')")
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    assert render("here {{ messages[0].content }} {{ cwd }}{{ os }}{{ __builtins__ }}") == ("here Hi ",)


def test_many_at_once_and_once_for_all(monkeypatch):
    asked = []
    whole = chat_templates._ask
    monkeypatch.setattr(chat_templates, "_ask", lambda *args: asked.append(1) or whole(*args))
    monkeypatch.setattr(chat_templates, "BATCH", 150)
    several = [turns(f"Say {number}") for number in range(200)]
    template = "{{ messages[0].content }}.{{ add_generation_prompt }}"
    texts = render(template, *several)
    assert texts == tuple(f"Say {number}.True" for number in range(200))
    # Two batches of two processes each, and none for what was rendered before.
    assert len(asked) == 4
    assert render(template, *several) == texts and len(asked) == 4
    assert render(template, prefix=False) == ("Hi.False",) and len(asked) == 6
    assert render(template, day="2030-01-01") == ("Hi.True",) and len(asked) == 8
    monkeypatch.setattr(chat_templates, "BATCH_READ", 10)
    render(template, turns("12345"), turns("12345"), turns("6"), turns("x" * 99))
    assert len(asked) == 8 + 2 * 3


def test_a_process_that_cannot_start_is_one_line(monkeypatch):
    monkeypatch.setattr(chat_templates.sys, "executable", os.devnull)
    with pytest.raises(InputError, match="no process can be started for the chat template"):
        render("never rendered before {{ messages }}")
