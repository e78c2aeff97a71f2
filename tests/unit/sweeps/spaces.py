"""Spaces of every kind, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from finetune_operator.finetunesweep.search.space import (
    Choice,
    Int,
    LogUniform,
    Parameter,
    Space,
    Uniform,
)

VALUES = st.one_of(st.booleans(), st.integers(-3, 3), st.text(max_size=3), st.floats(0, 1))


@st.composite
def spaces(draw: st.DrawFn, *, counted: bool = False) -> Space:
    kinds = ["choice", "int"] if counted else ["choice", "int", "uniform", "log"]
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    return Space(tuple(_draw_parameter(draw, f"p{n}", kind) for n, kind in enumerate(chosen)))


def counted_spaces() -> st.SearchStrategy[Space]:
    return spaces(counted=True)


def _draw_parameter(draw: st.DrawFn, path: str, kind: str) -> Parameter:
    if kind == "choice":
        unique_by = lambda value: (type(value), repr(value))  # noqa: E731
        return Choice(
            path, tuple(draw(st.lists(VALUES, min_size=1, max_size=5, unique_by=unique_by)))
        )
    if kind == "int":
        low = draw(st.integers(-5, 100))
        return Int(path, low, low + draw(st.integers(1, 6)))
    low = draw(st.floats(1e-7, 10))
    high = low * draw(st.floats(1.001, 1e4))
    return Uniform(path, low, high) if kind == "uniform" else LogUniform(path, low, high)
