"""What is wrong with a prompt template is known without running it."""

from __future__ import annotations

import sys

import pytest

from finetune_api.messages.prompt_template import find_chat_template_error, find_template_error


@pytest.mark.parametrize(
    "text",
    [
        "{{ headline }}",
        "no braces at all",
        "{{ row['Any name'] | trim }}",
        "{% if body is defined %}{{ body }}{% else %}none{% endif %}",
        "{% for turn in row.turns %}{{ turn }}\n{% endfor %}",
    ],
)
def test_what_can_be_rendered_is_left_alone(text: str) -> None:
    assert find_template_error(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ headline", "line 1: unexpected end of template"),
        ("a\n{% if x %}\nb", "line 2: Unexpected end of template"),
        ("{{ first name }}", "line 1: expected token 'end of print statement', got 'name'"),
        ("a\n{{ b | uper }}", "line 2: there is no filter 'uper'"),
        ("{{ a is odder }}", "line 1: there is no test 'odder'"),
        ("{% include 'other' %}", "line 1: there are no other templates to load"),
        ("{% trans %}a{% endtrans %}", "line 1: Encountered unknown tag 'trans'"),
        ("{{" + "(" * 4000, "nested too deeply"),
    ],
)
def test_what_cannot_is_told_with_its_line(text: str, problem: str) -> None:
    assert problem in str(find_template_error(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", None),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}", None),
        ("{{ tools | tojson(indent=2) }}{{ raise_exception('no') }}{{ strftime_now('%d') }}", None),
        ("{% for m in messages %}{{ m.content }}", "line 1: Unexpected end of template"),
        ("a\n{% generation %}{{ m }}", "line 2: Unexpected end of template"),
        ("{{ m.content | trimm }}", "line 1: there is no filter 'trimm'"),
    ],
)
def test_chat_templates_may_use_what_transformers_adds(text: str, problem: str | None) -> None:
    found = find_chat_template_error(text)
    assert found is None if problem is None else problem in str(found)


@pytest.mark.timeout(5)
def test_nothing_is_computed() -> None:
    assert find_template_error("{{ 9 ** 9 ** 9 ** 9 }}") is None


def test_the_contract_loads_without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import finetune_api.messages.prompt_template as module

    monkeypatch.setitem(sys.modules, "jinja2", None)
    importlib.reload(module)
    with pytest.raises(ImportError):
        module.find_template_error("{{ a }}")
