"""Random sizes, and requests of generation: taken, or refused in one sentence before their memory is."""

import io

import pytest
from fixtures.parameters import drawn_parameters
from fixtures.random_cases import (
    ends_cleanly,
    few,
    fuzz,
    generate_options,
    refuses_cleanly,
    texts,
    with_sizes,
    write_small_data,
)
from hypothesis import given
from hypothesis import strategies as st

from rnnjax import generate
from rnnjax.optimizer import build_optimizer
from rnnjax.tasks import build_task, hihello, language_model, time_series, translate, word2vec
from rnnjax.tasks.options import options_of, require_options, taken
from rnnjax.training.engine import training_schedule
from rnnjax.training.state import require_room

pytestmark = pytest.mark.usefixtures("only_arguments_and_data")


sizes = st.integers(1, 9) | st.integers(9, 33).map(lambda power: 2**power)
SIZES = {
    hihello: ("cell.hidden_size", "cell.layers", "batch_size", "epochs"),
    language_model: ("cell.hidden_size", "cell.layers", "batch_size", "window", "embedding_size", "epochs"),
    time_series: ("cell.hidden_size", "windows", "window", "batch_size", "steps_per_call"),
    translate: (
        "cell.hidden_size",
        "embedding_size",
        "max_length",
        "max_buckets",
        "beam_size",
        "vocabulary.source_size",
    ),
    word2vec: ("size", "window", "negatives", "noise", "min_count", "row_length", "batch_size"),
}


def build_and_plan(task, chosen, folder):
    config = with_sizes(task, chosen, folder)
    built = build_task(config)
    plan = training_schedule(built, config)
    require_room(built, config, build_optimizer(config.optimizer, plan.steps, plan.epoch_steps))


@few
@given(st.data())
def test_any_sizes_are_taken_or_refused_before_their_memory_is(folder, data):
    write_small_data(folder)
    task = data.draw(st.sampled_from(sorted(SIZES, key=lambda task: task.__name__)))
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(SIZES[task]), sizes), max_size=3))
    refuses_cleanly(lambda: build_and_plan(task, chosen, folder))


@pytest.fixture(scope="module")
def untrained(folder):
    """Tasks that generate, with fresh parameters."""
    write_small_data(folder)
    small = {translate: [("cell.hidden_size", 4)], word2vec: [("min_count", 1), ("size", 4)]}
    tasks = [build_task(with_sizes(task, small.get(task, [("cell.hidden_size", 4)]), folder)) for task in SIZES]
    return [(task, drawn_parameters(task.init)) for task in tasks]


@few
@given(st.integers(0, len(SIZES) - 1), generate_options, st.lists(texts, max_size=2))
def test_any_request_is_answered_or_refused(untrained, folder, number, arguments, lines):
    task, params = untrained[number]

    def answer(arguments):
        length = ["--length=3"] if "length" in options_of(task.generate) else []
        given = generate.task_options(generate.parse(["DIR", *arguments, *length]), task)
        require_options(task.generate, given, "the task", prefix="--")
        list(task.generate(params, **given, **taken(task.generate, {"lines": lines, "plots": folder})))

    ends_cleanly(answer, arguments)


@fuzz
@given(st.binary(max_size=60))
def test_any_standard_input_is_read_or_refused(content):
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    refuses_cleanly(lambda: list(generate.input_lines(stream)))
