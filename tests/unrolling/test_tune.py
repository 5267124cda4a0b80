"""Methods are measured, checked against `Scan`, and what was the fastest is what `unroll` then takes."""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import pytest
from cells_under_test import H, I, LeakySum, UpdateGateRNN, inputs, parameters
from fixtures.thorough import once_more

import rnnjax
from rnnjax import GRU, LSTM, Auto, BasicRNN, Fused, Heads, Method, Scan, Stack, Static, choose_method, unroll
from rnnjax.cache import cache_directory
from rnnjax.unrolling import known
from rnnjax.unrolling import tune as tune_function
from rnnjax.unrolling.auto import methods_of, recurrences_in
from rnnjax.unrolling.candidates import METHODS, method_as_json, method_from_json
from rnnjax.unrolling.known import keep_choices, recurrence_key
from rnnjax.unrolling.trial import largest_error
from rnnjax.unrolling.tuning import distinct, keep_tuned, medians, recurrences_of

TUNE = sys.modules["rnnjax.unrolling.tuning"]
T, B = 5, 4
SHAPE = (T, B, I)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache is the test's own, and is read."""
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(known.OFF, raising=False)
    return tmp_path / "cache" / "methods.json"


@pytest.fixture
def quickest(monkeypatch):
    """Has a method, or each of several, be measured as faster than all others, without measuring.

    Nor is any compiled to be checked, unless a test asks for that.
    """

    def of(methods, checked=False):
        methods = [methods] if isinstance(methods, Method) else methods

        def times(calls, seconds):
            return {each: 0.001 if each in methods else 0.002 for each in calls}

        monkeypatch.setattr(TUNE, "medians", times)
        if not checked:
            monkeypatch.setattr(TUNE, "_checked", all_correct)

    return of


@dataclasses.dataclass(frozen=True)
class Wrong(Method):
    """Gives the values of `Scan`, a hundredth of the last output added to it, and so gradients that are too large."""

    def run(self, recurrence):
        ys, state = Scan().run(recurrence)
        return ys.at[-1, 0].multiply(1.01), state


@dataclasses.dataclass(frozen=True)
class WrongOnTheWayBack(Method):
    """Gives the values of `Scan`, and gradients that are zero."""

    def run(self, recurrence):
        return jax.lax.stop_gradient(Scan().run(recurrence))


@dataclasses.dataclass(frozen=True)
class Raising(Method):
    """Says nothing against a recurrence, and then does not run it."""

    def run(self, recurrence):
        raise RuntimeError("out of order\nin two lines")


def all_correct(trial, measure, methods):
    return dict.fromkeys(methods), {}


def quickly_tuned(cell, methods, shape=SHAPE, **options):
    return rnnjax.tune(cell, shape, methods=methods, seconds=0.0, **options)


def remark(report, method):
    return next(timed for timed in report.tuned[0].methods if timed.method == method)


TROUBLE = {
    Wrong(): "not chosen: its values are .* from Scan's, above 1e-04",
    WrongOnTheWayBack(): "not chosen: its values or gradients are 1.0e\\+00 from Scan's, above 1e-04",
    Raising(): "not chosen: it raises RuntimeError: out of order$",
}


def test_methods_that_are_wrong_or_raise_are_never_chosen_and_the_report_says_so(quickest):
    quickest(TROUBLE, checked=True)
    report = quickly_tuned(UpdateGateRNN(H), [*TROUBLE, Fused()])
    assert report.methods == (Fused(),)
    for method, why in TROUBLE.items():
        timed = remark(report, method)
        assert timed.gradient is None
        assert re.search(why, timed.trouble)
        assert timed.trouble in str(report)
    assert choose_method(UpdateGateRNN(H), SHAPE) == Fused()


def test_what_is_the_fastest_is_what_unroll_takes_from_now_on(quickest, cache):
    params, xs = parameters(GRU(H)), inputs(B, T, I)
    programs = [jax.make_jaxpr(lambda p, x: unroll(GRU(H), p, x))(params, xs)]
    unroll(GRU(H), params, xs)
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2), Fused()])
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=2)
    programs.append(jax.make_jaxpr(lambda p, x: unroll(GRU(H), p, x))(params, xs))
    assert str(programs[0]) != str(programs[1])
    assert [entry["method"] for entry in json.loads(cache.read_text()).values()] == [{"name": "Scan", "unroll": 2}] * 2


def test_heads_are_measured_and_named_apart_from_the_cell_without(quickest):
    quickest(Scan(unroll=2))
    assert "in 2 heads, T " in str(quickly_tuned(Heads(GRU(H), 2), [Scan(unroll=2)], gradient=False))
    assert choose_method(Heads(GRU(H), 2), SHAPE) == Scan(unroll=2)
    assert choose_method(GRU(H), SHAPE) == Fused()


def test_unroll_outside_of_jit_chooses_again(quickest, monkeypatch):
    served, run = [], Scan.run
    monkeypatch.setattr(Scan, "run", lambda self, recurrence: served.append(self) or run(self, recurrence))
    params, xs = parameters(GRU(H)), inputs(B, T, I)
    unroll(GRU(H), params, xs)
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    served.clear()
    unroll(GRU(H), params, xs)
    assert served == [Scan(unroll=2)]


def test_forward_and_gradient_are_two_choices(quickest):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)], gradient=False)
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=2)  # no other was measured
    quickest(Scan(unroll=4))
    keep = quickly_tuned(GRU(H), [Scan(unroll=4)], keep=False).tuned[0]
    keep_tuned([dataclasses.replace(keep, forward=None)])
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=4)
    [recurrence] = recurrences_of(GRU(H), SHAPE, "float32", None, lengths=False, resets=False)
    chosen = [Auto(gradient=gradient).method_for(recurrence, jax.default_backend()) for gradient in (True, False)]
    assert chosen == [Scan(unroll=4), Scan(unroll=2)]


def test_each_recurrence_of_a_stack_is_measured_once_and_gets_a_method_of_its_own(quickest):
    cell = Stack((GRU(H), GRU(H), LeakySum(H), GRU(H)))
    quickest(Scan(unroll=2))
    report = quickly_tuned(cell, [Scan(unroll=2)], (T, B, H))
    assert [each.recurrence.cell for each in report.tuned] == [GRU(H), LeakySum(H)]
    assert methods_of(cell, (T, B, H)) == [Scan(unroll=2)] * 4


@pytest.mark.parametrize(
    ("cell", "shape"),
    [(GRU(H + 1), SHAPE), (GRU(H, reset="before"), SHAPE), (GRU(H), (T + 1, B, I)), (GRU(H), (T, B + 1, I))],
    ids=["H", "reset", "T", "B"],
)
def test_a_choice_holds_for_exactly_what_was_measured(cell, shape, quickest):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    assert choose_method(cell, shape) == Fused()


def test_lengths_and_resets_are_other_recurrences(quickest):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)], lengths=True, resets=True)
    assert choose_method(GRU(H), SHAPE) == Fused()
    params, xs = parameters(GRU(H)), inputs(B, T, I)
    given = {"lengths": jnp.full(B, T), "resets": jnp.zeros((B, T), bool)}
    [recurrence] = recurrences_in(lambda: unroll(GRU(H), params, xs, **given))
    assert Auto().method_for(recurrence, jax.default_backend()) == Scan(unroll=2)


def test_a_choice_that_cannot_serve_is_not_taken(cache):
    [recurrence] = recurrences_of(LeakySum(I), SHAPE, "float32", None, lengths=False, resets=False)
    keep_choices({(recurrence_key(recurrence), True): Fused()}, {})
    assert choose_method(LeakySum(I), SHAPE) == Scan()


def test_a_cache_that_is_switched_off_is_not_read(quickest, monkeypatch):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    monkeypatch.setenv(known.OFF, "0")
    assert choose_method(GRU(H), SHAPE) == Fused()


def test_methods_that_are_given_stand_in_place_of_the_cache(quickest):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    [recurrence] = recurrences_of(GRU(H), SHAPE, "float32", None, lengths=False, resets=False)
    platform = jax.default_backend()
    assert Auto(methods=()).method_for(recurrence, platform) == Fused()
    assert Auto(methods=((recurrence_key(recurrence), Static()),)).method_for(recurrence, platform) == Static()


DAMAGED = [b"", b'{"cut off', b"[]", b'{"key": 3}', b'{"key": {"method": {"name": "Scan", "unroll": 0}}}', 9999 * b"["]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_cache_is_measured_anew(content, cache, quickest):
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert choose_method(GRU(H), SHAPE) == Fused()
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=2)


def test_a_cache_that_cannot_be_written_is_named(cache, quickest, caplog):
    cache.parent.write_text("a file")
    quickest(Scan(unroll=2))
    assert quickly_tuned(GRU(H), [Scan(unroll=2)]).methods == (Scan(unroll=2),)
    assert f"{cache} cannot be written" in caplog.text


def test_the_cache_is_read_once(quickest, cache):
    quickest(Scan(unroll=2))
    quickly_tuned(GRU(H), [Scan(unroll=2)])
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=2)
    cache.unlink()
    assert choose_method(GRU(H), SHAPE) == Scan(unroll=2)
    assert cache_directory() == cache.parent


@pytest.mark.promotes_types
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (UpdateGateRNN(H), {"lengths": True, "resets": True}),
        (BasicRNN(H), {"dtype": "bfloat16"}),
        once_more(LeakySum(I), {"lengths": True}),
    ],
    ids=["own", "in_16_bits", "own_that_is_not_gated"],
)
def test_right_methods_are_timed_forward_and_with_the_gradient(cell, options):
    report = quickly_tuned(cell, [Scan(unroll=2), Fused()], keep=False, **options)
    [found] = report.tuned
    assert all(timed.trouble is None and timed.forward > 0 and timed.gradient > 0 for timed in found.methods)
    assert len(found.methods) == (2 if isinstance(cell, LeakySum) else 3)
    assert json.loads(json.dumps(report.as_json()))["recurrences"][0]["recurrence"] == found.title


def test_the_rule_stays_where_another_method_is_hardly_faster(monkeypatch):
    monkeypatch.setattr(TUNE, "_checked", all_correct)
    times = {Scan(): 0.98, Fused(): 1.0, Scan(unroll=2): 1.2}
    monkeypatch.setattr(TUNE, "medians", lambda calls, seconds: {each: times[each] for each in calls})
    assert quickly_tuned(GRU(H), [Fused(), Scan(unroll=2)]).methods == (Fused(),)
    times[Scan()] = 0.9
    assert quickly_tuned(GRU(H), [Fused(), Scan(unroll=2)]).methods == (Scan(),)


def test_calls_are_taken_in_turns_and_those_far_behind_are_given_up(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def call(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds

        return run

    found = medians({name: call(name, seconds) for name, seconds in [("a", 1.0), ("b", 9.0), ("c", 2.0)]}, 7.0)
    assert found == {"a": 1.0, "b": 9.0, "c": 2.0}
    assert "".join(order) == 5 * "abc" + 2 * "ac"


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_is_read_as_it_was_written(method):
    assert method_from_json(json.loads(json.dumps(method_as_json(method)))) == method


@pytest.mark.parametrize(
    "value", [None, 3, {}, {"name": "Wavefront"}, {"name": "Scan", "of": 1}, {"name": "Scan", "unroll": "2"}]
)
def test_what_is_no_method_is_read_as_none(value):
    assert method_from_json(value) is None


def test_an_error_is_a_share_of_the_largest_entry():
    expected = {"a": jnp.array([1.0, 100.0]), "b": jnp.array([1e-9, 0.0])}
    assert largest_error({"a": jnp.array([2.0, 100.0]), "b": jnp.array([0.0, 0.0])}, expected) == pytest.approx(0.01)
    assert not largest_error({"a": jnp.array([jnp.nan, 100.0]), "b": jnp.zeros(2)}, expected) <= 1
    assert not largest_error({"a": jnp.zeros(3), "b": jnp.zeros(2)}, expected) <= 1


def test_recurrences_that_differ_in_nothing_are_one():
    found = recurrences_of(Stack((GRU(I), GRU(I))), SHAPE, "float32", None, lengths=False, resets=False)
    assert len(found) == 2
    assert len(distinct(found)) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "sentence"),
    [
        (("LSTM", SHAPE), {}, TypeError, "cell must be a cell, such as LSTM"),
        ((LSTM(H), (0, 1, 2)), {}, ValueError, "each size of shape must be at least 1, got 0"),
        ((LSTM(H), (3,)), {}, ValueError, r"shape must be \(T, \*batch, I\), got \(3,\)"),
        ((LSTM(H), SHAPE), {"dtype": "int32"}, ValueError, "dtype must be a floating-point type, got int32"),
        ((LSTM(H), SHAPE), {"methods": ["scan"]}, TypeError, "method must be an unrolling method"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, options, error, sentence):
    with pytest.raises(error, match=sentence):
        rnnjax.tune(*arguments, **options)


def test_the_function_is_that_of_the_library():
    assert tune_function is rnnjax.unrolling.tune
