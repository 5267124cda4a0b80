"""Random arguments, configs and files: every command ends with 0, 1 or 2 and one sentence, never with a traceback.

``RNNJAX_FUZZ=50 pytest tests/fuzz`` tries fifty times as many cases as the usual run, others each time.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import json
import logging
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnnjax import evaluate, generate, reproduce, sweep, train
from rnnjax.commands import exit_code
from rnnjax.config import TrainConfig
from rnnjax.config_flags import read_config
from rnnjax.config_group import ConfigGroup, freeze, from_dict, to_dict
from rnnjax.data.clicks import read_clicks
from rnnjax.data.text import load_own_text
from rnnjax.data.translation import load_pairs
from rnnjax.data.word_vectors import read_word_vectors
from rnnjax.errors import ConfigError, DataError
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.distributed import read_cluster
from rnnjax.tasks import (
    build_task,
    hihello,
    language_model,
    mnist,
    navigation,
    task_module,
    time_series,
    translate,
    word2vec,
)
from rnnjax.tasks.task import Request
from rnnjax.training.evaluation import run_config
from rnnjax.training.grid import read_grid
from rnnjax.training.loop import training_schedule
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.state import require_room

# RNNJAX_FUZZ=50 tries fifty times as many cases, drawn anew each time.
_TIMES = int(os.environ.get("RNNJAX_FUZZ", "0"))
fuzz = settings(
    max_examples=80 * max(_TIMES, 1),
    derandomize=not _TIMES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
few = settings(fuzz, max_examples=fuzz.max_examples // 4)  # for what is traced or compiled

TASKS = (hihello, language_model, mnist, navigation, time_series, translate, word2vec)
CONFIGS = ("hihello", "char_lm", "mnist", "navigation", "ptb", "time_series", "translate", "word2vec")

# Values

NASTY_NUMBERS = ["0", "-1", "²", "٣", "1e999", "-inf", "nan", "1_0", "0x10", str(2**31), str(2**64), "9" * 5000]
NASTY_TEXTS = ["", " ", "\n", ",", "a,b", "..", "~nobody", "/dev/null/x", "é" * 300, "\ud800", "{}", "None", "a:b:c"]
NASTY_NAMES = [".cells:LSTM", "json:loads", "rnnjax:unroll", "rnnjax.train", "tasks", "mnist.", "os:path", "Stack"]
numbers = st.sampled_from(NASTY_NUMBERS) | st.integers().map(str) | st.floats().map(str)
good = st.sampled_from(["1", "2", "8", "0.5", "GRU", "LSTM", "embedded", "text", "all", "true", "adam", "cosine"])
texts = st.sampled_from(NASTY_TEXTS + NASTY_NAMES) | st.text(st.characters(exclude_characters="\0"), max_size=12)
words = numbers | texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("kind"), inner, max_size=3)
    ),
    max_leaves=8,
)


def fields_of(config, prefix=""):
    """The dotted names of a config's fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield prefix + field.name
        if isinstance(value, ConfigGroup):
            yield from fields_of(value, f"{prefix}{field.name}.")


FIELDS = sorted({name for task in TASKS for name in fields_of(task.Config())})
SHARED = {
    name: functools.reduce(getattr, name.split("."), TrainConfig())
    for name in sorted(fields_of(TrainConfig()))
    if not isinstance(functools.reduce(getattr, name.split("."), TrainConfig()), ConfigGroup)
}


@st.composite
def fitting_flags(draw):
    """A field that every config has, with a value of its type."""
    name, default = draw(st.sampled_from(sorted(SHARED.items(), key=lambda item: item[0])))
    whole, real = st.integers(1, 2**34), st.floats(0, 2, exclude_min=True)
    kinds = {int: st.integers(1, 64) | whole, float: real, bool: st.booleans(), str: st.just(default), type(None): good}
    kinds[tuple] = st.sampled_from(["dropout", "learned_state,residual", "project", ""])
    return f"--config.{name}={draw(kinds[type(default)])}"


config_flags = st.one_of(
    *[fitting_flags()] * 4,  # the more often a value fits, the further the others lead
    st.builds("--config.{}={}".format, st.sampled_from(FIELDS), good | words),
    st.builds("--config.{}={}".format, texts, words),
)
config_files = st.builds("configs/{}.py{}".format, st.sampled_from(CONFIGS), st.sampled_from(["", "", "", ":²"]))
config_arguments = st.tuples(
    st.one_of(*[config_files] * 4, texts), st.lists(config_flags, max_size=3), st.lists(words, max_size=1) | st.just([])
).map(lambda drawn: ["--config", drawn[0], *drawn[1], *drawn[2]])


def options(*names):
    """Some of a command's options, with good values and bad."""
    pair = st.tuples(st.sampled_from(names), st.sampled_from(["1", "2", "best", "test"]) | words)
    return st.lists(pair.map("=".join), max_size=4)


# What counts as a clean end


def ends_cleanly(main, arguments):
    """Runs a command in this process; fails where it ends otherwise than with a sentence and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = exit_code(main, arguments)
        except SystemExit as ended:  # argparse's
            code = ended.code
    said = err.getvalue()
    assert code in (0, 1, 2), arguments
    assert code == 0 or said.strip(), arguments
    assert "Traceback" not in said, arguments
    sentences = [line for line in said.splitlines() if line.startswith("rnnjax: ")]
    assert len(sentences) <= 1, arguments
    assert all(len(sentence) < 2000 for sentence in sentences), arguments
    return code


def refuses_cleanly(call):
    """Calls a parser or a loader; fails where it raises anything but an error that is one sentence."""
    try:
        call()
    except (ConfigError, DataError) as error:
        (_,) = str(error).strip().splitlines()


@pytest.fixture(autouse=True)
def _only_arguments_and_data(monkeypatch):
    """What comes after the arguments and the data is others' to test."""
    monkeypatch.delenv("RNNJAX_DATA", raising=False)
    monkeypatch.setattr("rnnjax.train.train_or_go_on", lambda config, directory: None)
    monkeypatch.setattr("rnnjax.training.sweep.sweep", lambda *arguments: {})
    monkeypatch.setattr("rnnjax.training.sweep_report.table", lambda results: "")
    monkeypatch.setattr("rnnjax.parallel.distributed._connect", lambda cluster, config: None)
    monkeypatch.setattr("rnnjax.parallel.distributed._disconnect", lambda: None)
    monkeypatch.setattr("rnnjax.reproduce.run", lambda *arguments: {})
    monkeypatch.setattr("rnnjax.cache.keep_compilations", lambda: None)
    monkeypatch.setattr("rnnjax.memory.machine_memory", lambda: 2**30)  # what is said to fit is really taken
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


# Arguments


@fuzz
@given(config_arguments, options("--processes", "--process_id", "--coordinator", "--start_timeout", "--workdir"))
def test_training_takes_or_refuses_any_arguments(arguments, more):
    ends_cleanly(train.main, arguments + more)


@fuzz
@given(config_arguments, options("--seeds", "--at-once", "--config.seed", "--config.optimizer.learning_rate"))
def test_a_sweep_takes_or_refuses_any_arguments(arguments, more):
    refuses_cleanly(lambda: read_grid(arguments, 1, None))
    ends_cleanly(sweep.main, [*arguments, *more])


@fuzz
@given(texts, options("--split", "--checkpoint", "--data", "--trust", "--length"))
def test_evaluation_takes_or_refuses_any_arguments(directory, more):
    assert ends_cleanly(evaluate.main, [directory, *more]) == 2


GENERATE = (
    "--prompt",
    "--length",
    "--temperature",
    "--top-k",
    "--top-p",
    "--seed",
    "--beam-size",
    "--n-best",
    "--data",
)


@fuzz
@given(texts, options(*GENERATE))
def test_generation_takes_or_refuses_any_arguments(directory, more):
    assert ends_cleanly(generate.main, [directory, *more]) == 2


@fuzz
@given(st.lists(words, max_size=2), options("--seeds", "--device", "--workdir"))
def test_reproduction_takes_or_refuses_any_arguments(names, more):
    ends_cleanly(reproduce.main, [*names, *more, "--seeds=100000000000"])


VARIABLES = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
OTHERS = ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")


@fuzz
@given(st.fixed_dictionaries(dict.fromkeys(VARIABLES, words)) | st.dictionaries(st.sampled_from(OTHERS), words))
def test_any_environment_of_a_cluster_is_taken_or_refused(environment):
    refuses_cleanly(lambda: read_cluster([], environment))


# The config.json of a run


@fuzz
@given(st.sampled_from(TASKS), st.lists(st.tuples(st.sampled_from(FIELDS), json_values), max_size=3))
def test_a_config_of_a_run_with_any_values_is_taken_or_refused(folder, task, changes):
    values = to_dict(task.Config())
    for name, value in changes:
        *groups, last = name.split(".")
        place = values
        for group in groups:
            place = place[group] if isinstance(place.get(group), dict) else {}
        place[last] = copy.deepcopy(value)
    refuses_cleanly(lambda: freeze(from_dict(task.Config, values)))
    (folder / "config.json").write_text(json.dumps(values), errors="replace")
    refuses_cleanly(lambda: run_config(RunDirectory(folder), None))


@fuzz
@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()) | st.integers(1, 10**5))
def test_a_config_of_a_run_with_any_content_is_refused(folder, content):
    nested = isinstance(content, int)
    (folder / "config.json").write_bytes(b"[" * content + b"]" * content if nested else content)
    assert ends_cleanly(evaluate.main, [str(folder)]) == 2
    assert ends_cleanly(generate.main, [str(folder)]) == 2


@fuzz
@given(words | st.just("rnnjax.tasks.mnist"))
def test_any_name_of_a_task_is_taken_or_refused(name):
    refuses_cleanly(lambda: task_module(name))


# Sizes

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


def write_small_data(folder):
    """Writes a text and pairs of sentences."""
    (folder / "own.txt").write_text("".join(f"the word {i % 7} and {i % 5}\n" for i in range(300)))
    (folder / "own.tsv").write_text("".join(f"{i % 37} a\tb {i % 37}\n" for i in range(300)))


def with_sizes(task, chosen, folder):
    """A task's config with some sizes, on data that is small."""
    values = to_dict(task.Config())
    values["batch_size"] = 1
    data = {language_model: ("text", "own.txt"), word2vec: ("text", "own.txt"), translate: ("tsv", "own.tsv")}
    if task in data:
        name, file = data[task]
        values["data"] |= {"name": name, "path": str(folder / file)}
    for name, size in chosen:
        *groups, last = name.split(".")
        functools.reduce(dict.__getitem__, groups, values)[last] = size
    return freeze(from_dict(task.Config, values))


def build_and_plan(task, chosen, folder):
    config = with_sizes(task, chosen, folder)
    built = build_task(config)
    plan = training_schedule(built, config)
    require_room(built, build_optimizer(config.optimizer, plan.steps, plan.epoch_steps))


@few
@given(st.data())
def test_any_sizes_are_taken_or_refused_before_their_memory_is(folder, data):
    write_small_data(folder)
    task = data.draw(st.sampled_from(sorted(SIZES, key=lambda task: task.__name__)))
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(SIZES[task]), sizes), max_size=3))
    refuses_cleanly(lambda: build_and_plan(task, chosen, folder))


# What is generated


@pytest.fixture(scope="module")
def untrained(folder):
    """Tasks that generate, with fresh parameters."""
    write_small_data(folder)
    small = {translate: [("cell.hidden_size", 4)], word2vec: [("min_count", 1), ("size", 4)]}
    tasks = [build_task(with_sizes(task, small.get(task, [("cell.hidden_size", 4)]), folder)) for task in SIZES]
    return [(task, task.init(jax.random.key(0))) for task in tasks]


@few
@given(st.integers(0, len(SIZES) - 1), options(*GENERATE[:-1]), st.lists(texts, max_size=2))
def test_any_request_is_answered_or_refused(untrained, folder, number, arguments, lines):
    task, params = untrained[number]

    def answer(arguments):
        asked = generate.parse(["DIR", *arguments, "--length=3"])
        generate.check(asked)
        given = {name: value for name, value in vars(asked).items() if name in Request._fields}
        list(task.generate(params, Request(**given, lines=lines, plots=folder)))

    ends_cleanly(answer, arguments)


# Data files

lines = st.lists(st.lists(words, max_size=4).map("\t".join) | st.lists(words, max_size=4).map(",".join), max_size=15)
contents = st.binary(max_size=60) | lines.map(lambda found: "\n".join(found).encode("utf-8", "replace"))
headers = st.builds("{} {}\n".format, words, words).map(lambda text: text.encode("utf-8", "replace"))


@fuzz
@given(contents, headers)
def test_any_content_of_a_data_file_is_taken_or_refused(folder, content, header):
    file = folder / "data.txt"
    file.write_bytes(content)
    refuses_cleanly(lambda: load_own_text(str(file)))
    refuses_cleanly(lambda: load_pairs("tsv", str(file)))
    refuses_cleanly(lambda: read_clicks([file]))
    refuses_cleanly(lambda: read_word_vectors(file))
    file.write_bytes(header + content)
    refuses_cleanly(lambda: read_word_vectors(file))


OWN_DATA = {language_model: "text", word2vec: "text", translate: "tsv", navigation: "yoochoose"}


@fuzz
@given(st.sampled_from(sorted(OWN_DATA, key=str)), contents, st.integers(1, 200))
def test_a_task_is_built_of_any_data_or_refuses_it(folder, task, content, times):
    (folder / "data.txt").write_bytes(content * times)
    values = to_dict(task.Config(batch_size=2))
    values["data"] |= {"name": OWN_DATA[task], "path": str(folder / "data.txt")}
    values |= {"min_count": 1} if task is word2vec else {}

    def plan():
        config = freeze(from_dict(task.Config, values))
        training_schedule(build_task(config), config)

    refuses_cleanly(plan)


@fuzz
@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_a_damaged_archive_is_taken_or_refused(folder, compression, changes):
    file = folder / "pairs.zip"
    with zipfile.ZipFile(file, "w", compression=compression) as archive:
        archive.writestr("pairs.txt", "".join(f"word {i}\tmot {i}\n" for i in range(30)))
    content = bytearray(file.read_bytes())
    for place, value in changes:
        at = place % len(content)
        content[at : at + len(value)] = value
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that an archive has twice
        refuses_cleanly(lambda: load_pairs("tsv", str(file)))


@fuzz
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
def test_any_config_file_is_taken_or_refused(folder, content):
    file = folder / "own.py"
    file.write_bytes(content)
    refuses_cleanly(lambda: read_config(["--config", str(file)]))


@fuzz
@given(st.binary(max_size=60))
def test_any_standard_input_is_read_or_refused(content):
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    refuses_cleanly(lambda: list(generate.input_lines(stream)))
