"""Random arguments, environments and configs: every command ends with 0, 1 or 2 and one sentence, no traceback."""

import copy
import json

import pytest
from fixtures.random_cases import (
    FIELDS,
    TASKS,
    config_arguments,
    ends_cleanly,
    fuzz,
    generate_options,
    json_values,
    options,
    refuses_cleanly,
    texts,
    words,
)
from hypothesis import given
from hypothesis import strategies as st

from rnnjax import evaluate, generate, reproduce, sweep, train
from rnnjax.config_flags import read_config
from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.parallel.distributed import read_cluster
from rnnjax.tasks import task_module
from rnnjax.training.directory.opened import run_config
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.sweeps.grid import read_grid

pytestmark = pytest.mark.usefixtures("only_arguments_and_data")


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


@fuzz
@given(texts, generate_options)
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


@fuzz
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
def test_any_config_file_is_taken_or_refused(folder, content):
    file = folder / "own.py"
    file.write_bytes(content)
    refuses_cleanly(lambda: read_config(["--config", str(file)]))
