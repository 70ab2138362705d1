"""Everything that is raised on purpose, and what a person reads of it."""

from __future__ import annotations

import inspect

import pytest

from decentral import errors
from decentral.errors import DecentralError, Malformed, RecipeError, Refusal, Refused, UserError, leading

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_ours_is_one_family_drawn_in_the_docstring(kind: type[Exception]) -> None:
    assert issubclass(kind, DecentralError)
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RecipeError("must be at least 1", key="peers", file="a.yaml", line=3), "a.yaml:3: peers: must be at least 1"),
        (RecipeError("no such file", file="a.yaml"), "a.yaml: no such file"),
        (RecipeError("unknown key", key="pears"), "pears: unknown key"),
        (Refused(Refusal.NOT_A_MEMBER), "refused: not a member"),
        (Refused(Refusal.SCHEMA, "other tensors"), "refused: schema (other tensors)"),
        (Malformed(Refusal.DIGEST, "another content"), "digest: another content"),
    ],
)
def test_an_error_says_where_and_what(error: Exception, text: str) -> None:
    assert str(error) == text


def test_the_leading_error_of_a_group_is_ours_however_deep() -> None:
    ours = UserError("this one")
    group = BaseExceptionGroup("", [KeyError("not ours"), BaseExceptionGroup("", [ValueError("nor this"), ours])])
    assert leading(group) is ours


def test_a_group_without_an_error_of_ours_has_no_leading_one() -> None:
    assert (
        leading(BaseExceptionGroup("", [KeyError("not ours"), BaseExceptionGroup("", [ValueError("nor this")])]))
        is None
    )
