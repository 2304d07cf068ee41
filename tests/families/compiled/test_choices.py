"""What torch's code generator chooses for sums. It makes code for GPUs without one, but it cannot run it."""

from types import SimpleNamespace

import pytest
from torch._inductor import config
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

from stages.families.unet.compiled.blocks import compile_once
from stages.families.unet.compiled.choices import LONGEST, Choices

GRAPH = SimpleNamespace(sizevars=SimpleNamespace(statically_known_leq=lambda left, right: left <= right))


@pytest.mark.parametrize(
    ("numbers", "hint", "cooperative", "on", "once"),
    [
        (1280, "INNER", False, True, True),
        (LONGEST, "INNER", False, True, True),
        (LONGEST + 1, "INNER", False, True, False),
        (1280, "OUTER", False, True, None),
        (1280, "INNER", True, True, None),
        (1280, "INNER", False, False, None),
    ],
)
def test_sums_of_numbers_side_by_side_read_them_once(monkeypatch, numbers, hint, cooperative, on, once):
    """None: torch decides."""
    monkeypatch.setattr(InductorChoices, "should_use_persistent_reduction", staticmethod(lambda *_: "torch's choice"))
    hint = getattr(ReductionHint, hint)
    features = SimpleNamespace(get_reduction_hint=lambda: hint, reduction_numel=numbers)
    with V.set_graph_handler(GRAPH), config.patch({"triton.persistent_reductions": on}):
        chosen = Choices.should_use_persistent_reduction(features, cooperative)
    assert chosen == ("torch's choice" if once is None else once)


def test_all_compiled_code_is_made_with_them(monkeypatch):
    monkeypatch.setattr(config, "inductor_choices_class", None)
    compile_once(lambda: None)
    assert config.inductor_choices_class is Choices
    assert isinstance(V.choices, Choices)
    assert Choices().uuid() == Choices().uuid()
