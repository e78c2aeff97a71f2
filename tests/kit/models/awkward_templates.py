"""Chat templates in every shape that has gone wrong somewhere, over the tiny tokenizer's tokens.

``<|im_end|>`` is the tokenizer's end token unless a template is told otherwise.
"""

from __future__ import annotations

_HEADER = "{{ '<|im_start|>assistant\n' }}"
_GENERATE = "{% if add_generation_prompt %}" + _HEADER + "{% endif %}"


def chatml(
    content: str = "m['content']", *, header: str = _GENERATE, end: str = "<|im_end|>"
) -> str:
    """Return ChatML with the given expression as content, end of turn and end of prompt."""
    return (
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\n' }}{{ " + content + " }}{{ '<|im_end|>\n' }}"
        "{% endfor %}" + header
    )


HEADER_ALWAYS = chatml(header=_HEADER)
"""Llama 3's old template: the assistant's header follows, asked for or not."""

HEADER_NEVER = chatml(header="")
"""Whoever generates writes the assistant's header: the template never opens an answer."""

NAMES_SPEAKERS = (
    "{% for m in messages %}{{ ('USER: ' if m['role'] == 'user' else 'ASSISTANT: ')"
    " + m['content'] }}{{ '<|im_end|>' if m['role'] == 'assistant' else '\n' }}{% endfor %}"
)
"""Vicuna's form, with no control token in a header; it opens no answer either."""

TRIMS = chatml("m['content'] | trim")
"""Llama 3, Gemma: white space around contents goes."""

DROPS_REASONING = chatml(
    "('<think>\\n\\n</think>\\n\\n' if loop.last and m['role'] == 'assistant' else '')"
    " + m['content'].split('</think>')[-1]",
    header="{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)
"""Qwen3: the last answer has an empty thought before it, past ones have none."""

OPENS_REASONING = chatml(
    "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']",
    header="{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
)
"""DeepSeek-R1: the prompt opens a thought."""

KEEPS_REASONING = chatml(
    "('<think>\\n' + m['reasoning_content'] + '\\n</think>\\n\\n'"
    " if m['reasoning_content'] and loop.last else '') + m['content']"
)
"""GLM-4.5: the last answer's reasoning is written from a field of its own."""

NO_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""GLM-4: nothing ends an answer but the header of the next turn."""

TWO_ENDS = chatml(
    header="{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3: the end of the turn, and the end of the text after it."""

SYSTEM_INTO_LAST_USER = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ '[INST]' + (system if loop.last else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral Nemo: the system message goes into the last message, if that is the user's."""

DROPS_SYSTEM = chatml().replace("messages %}", "messages if m['role'] != 'system' %}", 1)
"""A system message vanishes without a word."""

ENDS_OTHERWISE = chatml(
    header="{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
).replace(
    "'<|im_end|>\n'",
    "('<|endoftext|>' if loop.last and m['role'] == 'assistant' else '<|im_end|>') + '\n'",
    1,
)
"""gpt-oss: a fresh answer ends in another token than a past one."""

CHANNELS = chatml("('final<|im_start|>' if m['role'] == 'assistant' else '') + m['content']")
"""gpt-oss: the model says the name of a channel before its answer."""

CHANNELS_ALWAYS = CHANNELS.replace(_GENERATE, _HEADER)
"""The same behind a header that follows, asked for or not."""

DATED = "{{ 'Today is ' + strftime_now('%d %b %Y') + '.' }}" + chatml()
"""Llama 3.2, gpt-oss: every prompt holds today's date."""

PARTS_ONLY = chatml("m['content'][0]['text']")
"""Models for pictures: contents are lists of parts."""

WITH_TOOLS = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    + chatml(
        "m['content'] + (m.tool_calls[0].function.name + '(' + "
        "(m.tool_calls[0].function.arguments | tojson) + ')' if m.tool_calls else '')"
    )
)
"""Tools and their calls are written."""

FORGETS_REASONING_OF_CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content and (loop.last or messages[-1]['role'] != 'assistant') %}"
    "{{ 'think ' + m.reasoning_content + '<|im_start|>assistant\n' }}{% endif %}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function.name + '()' }}{% else %}"
    "{{ 'final ' + m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""gpt-oss: reasoning before a call of a tool is shown until there is an answer."""

ANSWERS_ELSEWHERE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ 'Reply: ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>A: ' }}{% endif %}"
)
"""Generation begins an answer otherwise than a finished one is written."""

CHANGES_ANSWER = chatml("m['content'] | upper if m['role'] == 'assistant' else m['content']")
"""What is learned is not what the row says."""
