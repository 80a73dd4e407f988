"""How published models' templates write one exchange: retyped as far as it matters, with the text written out by hand.

Templates are in the manner of each publisher's, reduced to user, assistant and system turns; the expected texts are
those of the publishers' documentation. tests/data/test_published_layouts.py reads them.
"""

from typing import NamedTuple


class Layout(NamedTuple):
    """bos, eos, others: the special tokens, which are one token each; plain: of these those that are not `special`.

    prompt: of the user's turn "Name a colour."; turn: of the answer "Red." behind it; style: what chat.style=auto
    finds, "" for none of them; ends: tokens that end an answer; system: what the prompt becomes with the system turn
    "Be brief.", None where the template has none; real: a published tokenizer that has these tokens, of the model or of
    a relative.
    """

    bos: str | None
    eos: str
    others: tuple[str, ...]
    template: str
    prompt: str
    turn: str
    style: str
    ends: tuple[str, ...]
    system: str | None = None
    plain: tuple[str, ...] = ()
    real: str = ""


USER, ANSWER, SYSTEM = "Name a colour.", "Red.", "Be brief."

HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA3_LOOP = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
)
LLAMA3_PREFIX = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
LLAMA3_USER = "<|start_header_id|>user<|end_header_id|>\n\nName a colour.<|eot_id|>"
LLAMA3_OPEN = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA3_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    DATE
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA31_DATE = '{%- set date_string = "26 Jul 2024" %}'
LLAMA32_DATE = '{%- set date_string = strftime_now("%d %b %Y") %}'
LLAMA31_TEXT = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


def llama31(date: str) -> Layout:
    return Layout(
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", *HEADERS),
        LLAMA31.replace("DATE", date),
        f"{LLAMA3_SYSTEM}{LLAMA31_TEXT}<|eot_id|>{LLAMA3_USER}{LLAMA3_OPEN}",
        "Red.<|eot_id|>",
        "llama3",
        ("<|eot_id|>",),
        f"{LLAMA3_SYSTEM}{LLAMA31_TEXT}Be brief.<|eot_id|>{LLAMA3_USER}{LLAMA3_OPEN}",
        real="llama3_1",
    )


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ GAP + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# The published one of v0.3, less its tools.
MISTRAL3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]GAP" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]GAP" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- "GAP" + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""
CHATML = (
    "{% for message in messages %}DEFAULT{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_USER = "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"
CHATML_SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"


def chatml(*, default: str = "", bos: str | None = None, writes_bos: bool = False, real: str = "") -> Layout:
    first = (
        "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
        + default
        + "<|im_end|>\\n' }}{% endif %}"
    )
    front = bos if writes_bos else ""
    return Layout(
        bos,
        "<|im_end|>",
        ("<|endoftext|>", "<|im_start|>"),
        ("{{ bos_token }}" if writes_bos else "") + CHATML.replace("DEFAULT", first if default else ""),
        front + (f"<|im_start|>system\n{default}<|im_end|>\n" if default else "") + CHATML_USER,
        "Red.<|im_end|>",
        "chatml",
        ("<|im_end|>",),
        front + CHATML_SYSTEM + CHATML_USER,
        real=real,
    )


# Qwen 3 and 3.5, QwQ: how a thought is written, without tools.
QWEN_THINKS = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>' + message.role + '\\nTHOUGHT' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    PREFIX
{%- endif %}"""
NO_THOUGHT = "<think>\n\n</think>\n\n"
ASKED = "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"


def qwen_thinks(prefix: str, thought: str, real: str = "") -> Layout:
    return Layout(
        None,
        "<|im_end|>",
        ("<|endoftext|>", "<|im_start|>", "<think>", "</think>"),
        QWEN_THINKS.replace("PREFIX", prefix).replace("THOUGHT", thought),
        CHATML_USER + NO_THOUGHT,
        "Red.<|im_end|>",
        "chatml",
        ("<|im_end|>",),
        CHATML_SYSTEM + CHATML_USER + NO_THOUGHT,
        plain=("<think>", "</think>"),
        real=real,
    )


R1 = (
    "{{bos_token}}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' %}{{'<\uff5cUser\uff5c>' + message['content']}}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}"
)
R1_BOS, R1_EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
R1_ASKED = f"<\uff5cUser\uff5c>Name a colour.<\uff5cAssistant\uff5c>{NO_THOUGHT}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""
GEMMA_PROMPT = "<bos><start_of_turn>user\nName a colour.<end_of_turn>\n<start_of_turn>model\n"
GEMMA_OTHERS = ("<start_of_turn>", "<end_of_turn>")
ROLES = (
    "FRONT{% for message in messages %}{{ '<|' + message['role'] + '|>MIDDLE' + message['content'] + END }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>MIDDLE' }}{% endif %}"
)


def roles(*, middle: str, end: str, front: str = "") -> str:
    return ROLES.replace("MIDDLE", middle).replace("END", end).replace("FRONT", front)


VICUNA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
    "{% set messages = messages[1:] %}{% else %}{{ 'A chat between a curious user and an artificial intelligence "
    "assistant. ' }}{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'].strip() + ' ' }}{% else %}"
    "{{ 'ASSISTANT: ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "Knowledge Cutoff Date: April 2024.
Today's Date: " + strftime_now('%B %d, %Y') + ".
You are Granite, developed by IBM." %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>
' }}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>
' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}"""
GRANITE_USER = (
    "<|start_of_role|>user<|end_of_role|>Name a colour.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
)
PHI4 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + "
    "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
SMOLLM3 = """{%- set think = enable_thinking if enable_thinking is defined else true %}
{{- "<|im_start|>system\\n## Metadata\\n\\nToday Date: " + strftime_now("%d %B %Y") + "\\nReasoning Mode: " }}
{{- "/think" if think else "/no_think" }}
{{- "\\n\\n## Custom Instructions\\n\\n" }}
{%- if messages[0].role == "system" %}
    {{- messages[0].content }}
    {%- set messages = messages[1:] %}
{%- else %}
    {{- "You are a helpful AI assistant named SmolLM." }}
{%- endif %}
{{- "\\n\\n<|im_end|>\\n" }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "<|im_start|>user\\n" + message.content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" %}
        {{- "<|im_start|>assistant\\n" + ("" if think else "<think>\\n\\n</think>\\n") }}
        {{- message.content + "<|im_end|>\\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" + ("" if think else "<think>\\n\\n</think>\\n") }}
{%- endif %}"""


def smollm3(system: str) -> str:
    return (
        "<|im_start|>system\n## Metadata\n\nToday Date: 26 July 2024\nReasoning Mode: /no_think\n\n"
        f"## Custom Instructions\n\n{system}\n\n<|im_end|>\n{CHATML_USER}<think>\n\n</think>\n"
    )


_LLAMA3 = Layout(
    "<|begin_of_text|>",
    "<|end_of_text|>",
    HEADERS,
    LLAMA3_LOOP + LLAMA3_PREFIX,
    f"<|begin_of_text|>{LLAMA3_USER}{LLAMA3_OPEN}",
    "Red.<|eot_id|>",
    "llama3",
    ("<|eot_id|>", "<|end_of_text|>"),
    f"{LLAMA3_SYSTEM}Be brief.<|eot_id|>{LLAMA3_USER}{LLAMA3_OPEN}",
    real="llama3",
)
_MISTRAL1 = Layout(
    *("<s>", "</s>", (), MISTRAL1.replace("GAP", "''"), "<s>[INST] Name a colour. [/INST]", "Red.</s>", "mistral"),
    ("</s>",),
)
_INSTS = ("[INST]", "[/INST]")
_MISTRAL3 = Layout(
    *("<s>", "</s>", _INSTS, MISTRAL3.replace("GAP", " "), "<s>[INST] Name a colour.[/INST]", " Red.</s>", "mistral"),
    *(("</s>",), "<s>[INST] Be brief.\n\nName a colour.[/INST]"),
)
_R1 = Layout(
    *(R1_BOS, R1_EOS, ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"), R1, R1_BOS + R1_ASKED),
    *(f"Red.{R1_EOS}", "", (R1_EOS,), f"{R1_BOS}Be brief.{R1_ASKED}", ("<think>", "</think>"), "deepseek_v3"),
)
_GEMMA = Layout(
    *("<bos>", "<eos>", GEMMA_OTHERS, GEMMA, GEMMA_PROMPT, "Red.<end_of_turn>", "gemma"),
    GEMMA_OTHERS[1:] + ("<eos>",),
    real="gemma3",
)
_PLAIN_ROLES = "<|user|>\nName a colour.\n<|assistant|>\n"

LAYOUTS = {
    "Llama 2": Layout(
        *("<s>", "</s>", (), LLAMA2, "<s>[INST] Name a colour. [/INST]", " Red. </s>", "llama2", ("</s>",)),
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nName a colour. [/INST]",
    ),
    # Its first template opens the assistant's turn whether asked or not.
    "Llama 3, first": _LLAMA3,
    "Llama 3": _LLAMA3._replace(
        template=f"{LLAMA3_LOOP}{{% if add_generation_prompt %}}{LLAMA3_PREFIX}{{% endif %}}", real="llama3_1"
    ),
    "Llama 3.1": llama31(LLAMA31_DATE),
    "Llama 3.2": llama31(LLAMA32_DATE),
    "Llama 3.3": llama31(LLAMA31_DATE),
    "Mistral v0.1": _MISTRAL1,
    "Mistral v0.2": _MISTRAL1._replace(template=MISTRAL1.replace("GAP", "' '"), turn=" Red.</s>"),
    "Mistral v0.3": _MISTRAL3,
    "Mistral Nemo": _MISTRAL3._replace(
        template=MISTRAL3.replace("GAP", ""),
        prompt="<s>[INST]Name a colour.[/INST]",
        turn="Red.</s>",
        system="<s>[INST]Be brief.\n\nName a colour.[/INST]",
    ),
    "Gemma 1": _GEMMA,
    "Gemma 2": _GEMMA,
    "Gemma 3": _GEMMA._replace(
        template=GEMMA3,
        system="<bos><start_of_turn>user\nBe brief.\n\nName a colour.<end_of_turn>\n<start_of_turn>model\n",
        real="gemma3",
    ),
    "Qwen 2": chatml(default="You are a helpful assistant.", real="qwen3"),
    "Qwen 2.5": chatml(default="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", real="qwen3"),
    "Qwen 3": qwen_thinks(ASKED + "{%- endif %}", "<think>\\n\\n</think>\\n\\n", real="qwen3"),
    "Qwen 3.5": qwen_thinks(
        ASKED + "{%- else %}{{- '<think>\\n' }}{%- endif %}", "<think>\\n\\n</think>\\n\\n", real="qwen3"
    ),
    "QwQ": qwen_thinks("{{- '<think>\\n' }}", "", real="qwen3"),
    "R1 distilled into Qwen": _R1,
    "R1 distilled into Llama": _R1,
    "SmolLM2": chatml(
        default="You are a helpful AI assistant named SmolLM, trained by Hugging Face", bos="<|im_start|>", real="smol"
    ),
    "SmolLM3": Layout(
        *(None, "<|im_end|>", ("<|im_start|>", "<think>", "</think>"), SMOLLM3),
        *(smollm3("You are a helpful AI assistant named SmolLM."), "Red.<|im_end|>", "chatml", ("<|im_end|>",)),
        *(smollm3("Be brief."), ("<think>", "</think>")),
    ),
    "Zephyr": Layout(
        *("<s>", "</s>", (), roles(middle="\\n", end="eos_token + '\\n'")),
        *("<|user|>\nName a colour.</s>\n<|assistant|>\n", "Red.</s>", "", ("</s>",)),
        "<|system|>\nBe brief.</s>\n<|user|>\nName a colour.</s>\n<|assistant|>\n",
    ),
    "Hermes 3": chatml(bos="<|begin_of_text|>", writes_bos=True),
    "Dolphin 2.9": chatml(bos="<|begin_of_text|>"),
    "Vicuna": Layout(
        *("<s>", "</s>", (), VICUNA),
        "<s>A chat between a curious user and an artificial intelligence assistant. USER: Name a colour. ASSISTANT:",
        *(" Red.</s>", "", ("</s>",), "<s>Be brief. USER: Name a colour. ASSISTANT:"),
    ),
    "Phi-3": Layout(
        *("<s>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
        roles(middle="\\n", end="'<|end|>\\n'") + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        *("<|user|>\nName a colour.<|end|>\n<|assistant|>\n", "Red.<|end|>", "", ("<|endoftext|>", "<|end|>")),
        "<|system|>\nBe brief.<|end|>\n<|user|>\nName a colour.<|end|>\n<|assistant|>\n",
    ),
    # Its markers begin as ChatML's do, but no line break follows them.
    "Phi-4": Layout(
        *(None, "<|im_end|>", ("<|im_start|>", "<|im_sep|>"), PHI4),
        "<|im_start|>user<|im_sep|>Name a colour.<|im_end|><|im_start|>assistant<|im_sep|>",
        *("Red.<|im_end|>", "", ("<|im_end|>",)),
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|>"
        "<|im_start|>user<|im_sep|>Name a colour.<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    "Phi-4-mini": Layout(
        *(None, "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
        roles(middle="", end="'<|end|>'") + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        *("<|user|>Name a colour.<|end|><|assistant|>", "Red.<|end|>", "", ("<|endoftext|>", "<|end|>")),
        "<|system|>Be brief.<|end|><|user|>Name a colour.<|end|><|assistant|>",
    ),
    "Granite 3": Layout(
        *(None, "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>"), GRANITE),
        "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\nToday's Date: July 26, 2024.\n"
        f"You are Granite, developed by IBM.<|end_of_text|>\n{GRANITE_USER}",
        *("Red.<|end_of_text|>", "", ("<|end_of_text|>",)),
        f"<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n{GRANITE_USER}",
    ),
    # Role names are plain text to its tokenizer, and BOS and EOS are one token.
    "OLMo 2": Layout(
        *("<|endoftext|>", "<|endoftext|>", ()),
        roles(middle="\\n", end="(eos_token if message['role'] == 'assistant' else '\\n')", front="{{ bos_token }}"),
        *(f"<|endoftext|>{_PLAIN_ROLES}", "Red.<|endoftext|>", "", ("<|endoftext|>",)),
        f"<|endoftext|><|system|>\nBe brief.\n{_PLAIN_ROLES}",
    ),
    "OLMo 3 Think": qwen_thinks("{{- '<think>' }}", "")._replace(
        prompt=CHATML_USER + "<think>\n</think>\n\n", system=CHATML_SYSTEM + CHATML_USER + "<think>\n</think>\n\n"
    ),
    "Tulu 3": Layout(
        *(None, "<|end_of_text|>", ()),
        roles(middle="\\n", end="(eos_token if message['role'] == 'assistant' else '\\n')"),
        *(_PLAIN_ROLES, "Red.<|end_of_text|>", "", ("<|end_of_text|>",)),
        f"<|system|>\nBe brief.\n{_PLAIN_ROLES}",
        real="llama3",
    ),
}
