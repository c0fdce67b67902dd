"""The chat template: a Jinja text that turns messages into turns, and the three marks that no message can write.

| mark   | stands                                  | byte of its id |
|--------|-----------------------------------------|----------------|
| `TURN` | before the role                         | 0xFD           |
| `TEXT` | between the role and the text           | 0xFE           |
| `END`  | after the text; an assistant ends there | 0xFF           |

UTF-8 has no use for these bytes, so every byte-level vocabulary has a token for each that no text is ever encoded to: the marks take
those ids, and no embedding grows. A turn is always `[TURN] role [TEXT] text [END]`, and the tokens of a conversation are those of its
parts, joined.

In the rendered chat, which is a string, a mark is a name that begins with U+FDD0, a code point that Unicode keeps out of text. The
template writes U+FFFD for each U+FDD0 in a message, so what a message says of marks or of special tokens stays text. A prompt that is no
chat is not looked through: the names of the marks, noncharacters and all, are marks in it too.
"""

from __future__ import annotations

GUARD = "\ufdd0"  # a "noncharacter": for use inside a program, never for interchange
TURN, TEXT, END = (f"{GUARD}{name}\ufdd1" for name in ("turn", "text", "end"))
MARK_BYTES = {TURN: 0xFD, TEXT: 0xFE, END: 0xFF}

ROLES = ("system", "user", "assistant")
# The guards in it are escapes of Jinja. `generation` is what return_assistant_tokens_mask and TRL's assistant_only_loss look for.
CHAT_TEMPLATE = r"""
{%- macro plain(content) -%}
    {%- if content is string -%}
        {{- content | replace('\ufdd0', '\ufffd') -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] != 'text' -%}
                {{- raise_exception('messages of this model are text, and one holds a part of type ' + part['type'] | string) -}}
            {%- endif -%}
            {{- part['text'] | replace('\ufdd0', '\ufffd') -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- raise_exception('this chat template has no tools') -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
    {%- if role not in ('system', 'user', 'assistant') -%}
        {{- raise_exception('a role must be system, user or assistant, got ' + role | string) -}}
    {%- endif -%}
    {{- '\ufdd0turn\ufdd1' + role + '\ufdd0text\ufdd1' -}}
    {%- if role == 'assistant' -%}
        {% generation %}
        {{- plain(message['content'] | default('', true)) + '\ufdd0end\ufdd1' -}}
        {% endgeneration %}
    {%- else -%}
        {{- plain(message['content'] | default('', true)) + '\ufdd0end\ufdd1' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '\ufdd0turn\ufdd1assistant\ufdd0text\ufdd1' -}}
{%- endif -%}
""".strip()
