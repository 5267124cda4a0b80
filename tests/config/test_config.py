import dataclasses
import json

import pytest
from config_reading import MNIST, read

import rnnjax
from rnnjax.config import CellConfig, DataConfig, OptimizerConfig, ParallelConfig, TrainConfig, build_cell
from rnnjax.config_file import read_config_file, shipped_configs
from rnnjax.config_flags import read_config
from rnnjax.config_group import differences, freeze, from_dict, to_dict
from rnnjax.errors import ConfigError
from rnnjax.tasks import mnist, translate

# Reading


def test_the_default_variant_is_rnn150():
    config = read()
    assert isinstance(config, mnist.Config)
    assert (config.cell.kind, config.cell.hidden_size, config.batch_size, config.epochs) == ("BasicRNN", 150, 150, 5)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 1e-3)
    assert config == read(config=f"{MNIST}:rnn150")


@pytest.mark.parametrize(
    ("variant", "kind", "hidden_size", "layers", "batch_size", "epochs", "data"),
    [
        ("rnn150", "BasicRNN", 150, 1, 150, 5, "mnist"),
        ("rnn150_long", "BasicRNN", 150, 1, 150, 100, "mnist"),
        ("rnn128", "BasicRNN", 128, 1, 128, 30, "mnist"),
        ("rnn31", "BasicRNN", 31, 1, 128, 10, "mnist"),
        ("rnn31x3", "BasicRNN", 31, 3, 128, 10, "mnist"),
        ("lstm150", "LSTM", 150, 1, 150, 5, "mnist"),
        ("lstm150_peephole", "LSTM", 150, 1, 150, 5, "mnist"),
        ("gru150", "GRU", 150, 1, 150, 5, "mnist"),
    ],
)
def test_the_variants_are_those_of_the_source(variant, kind, hidden_size, layers, batch_size, epochs, data):
    config = read(config=f"{MNIST}:{variant}")
    cell = config.cell
    assert (cell.kind, cell.hidden_size, cell.layers) == (kind, hidden_size, layers)
    assert (config.batch_size, config.epochs, config.data.name) == (batch_size, epochs, data)
    assert cell.chosen().get("peephole") == (True if "peephole" in variant else None)


def test_the_embedded_variant_uses_the_embedded_digits():
    assert read(config=f"{MNIST}:embedded").data.name == "embedded"


def test_reading_gives_a_name_for_the_run_and_its_work_directory(tmp_path):
    _, name, workdir = read_config(["--config", f"{MNIST}:gru150", "--workdir", str(tmp_path)])
    assert workdir == tmp_path
    assert name.startswith("mnist")
    assert name.endswith("gru150")
    assert ".py" not in name
    assert read_config([f"--config={MNIST}"])[2] is None


def test_fields_are_set_by_their_dotted_names():
    config = read(
        "--config.seed=7",
        "--config.cell.hidden_size=9",
        "--config.cell.kind=LSTM",
        "--config.cell.cell_clip=3",
        "--config.cell.peephole=true",
        "--config.cell.recurrent_init=glorot_normal",
        "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.clip_norm=5",
        "--config.data.path=/data",
        "--config.parallel.batch=all",
        "--config.dtype=bfloat16",
    )
    assert (config.seed, config.dtype, config.parallel.batch, config.data.path) == (7, "bfloat16", "all", "/data")
    assert (config.optimizer.learning_rate, config.optimizer.clip_norm) == (0.01, 5.0)
    cell = rnnjax.LSTM(9, cell_clip=3.0, peephole=True, recurrent_init="glorot_normal")
    assert build_cell(config.cell) == cell


REFUSED = [
    (["--config.colour=red"], "colour"),
    (["--config.cell.colour=red"], "colour"),
    (["--config.epochs=many"], "^config.epochs must be a whole number, got 'many'$"),
    (["--config.epochs=2.5"], "^config.epochs must be a whole number, got '2.5'$"),
    (
        ["--config.cell.kind=LSTM", "--config.cell.peephole=perhaps"],
        "^config.cell.peephole must be true or false, got 'perhaps'$",
    ),
    (["--config.cell.kind=LSTM", "--config.cell.cell_clip=small"], "cell_clip.*small"),
    (["--config.cell=LSTM"], "cell"),
    (["--config.optimizer.learning_rate=fast"], "^config.optimizer.learning_rate must be a number, got 'fast'$"),
    (["--colour=red"], "^unknown flag --colour; --help lists the fields of the config$"),
    (["--wrokdir=red"], "^unknown flag --wrokdir; did you mean 'workdir'\\?$"),
    (["stray"], "unexpected argument 'stray'"),
    (["--config.epochs=0"], "epochs must be at least 1, got 0"),
    (["--config.batch_size=-1"], "batch_size must be at least 1, got -1"),
    (["--config.log_every=0"], "log_every must be at least 1, got 0"),
    (["--config.seed=-1"], "seed must not be negative, got -1"),
    (["--config.seed=99999999999999999999"], "seed .*99999999999999999999"),
    (["--config.epochs=99999999999999999999"], "epochs must be below 4294967296, got 99999999999999999999"),
    (["--config.batch_size=4294967296"], "batch_size must be below 4294967296, got 4294967296"),
    (["--config.cell.hidden_size=-9999999999"], "hidden_size must be"),
    (["--config.optimizer.learning_rate=inf"], "learning_rate must be a finite number, got inf"),
    (["--config.optimizer.learning_rate=nan"], "learning_rate must be a finite number, got nan"),
    (["--config.cell.kind=LSTM", "--config.cell.cell_clip=inf"], "cell_clip must be a finite number, got inf"),
    (["--config.cell.layers=1001"], "cell.layers must be at most 1000, got 1001"),
    (["--config.parallel.batch=²"], "parallel.batch must be .*got '²'"),
    (["--config.parallel.batch=٣"], "parallel.batch must be .*got '٣'"),
    (["--config.parallel.batch=9999999999999999999"], "parallel.batch must be .*got '9999999999999999999'"),
    (["--config.parallel.layers=²"], "parallel.layers must be .*got '²'"),
    (["--config.data.path=\ud800"], r"data.path names no file, got '\\ud800'"),
    (["--config.steps_per_call=-2"], "steps_per_call must not be negative, got -2"),
    (["--config.call_seconds=-1"], "call_seconds must not be negative, got -1"),
    (["--config.dtype=float16"], "small gradients are zero in float16, got dtype = 'float16'; take bfloat16"),
    (["--config.cell.dtype=float16"], "small gradients are zero in float16, got cell.dtype = 'float16'; take bfloat16"),
    (["--config.cell.state_dtype=float16"], "got cell.state_dtype = 'float16'; take bfloat16"),
    (["--config.dtype=int8"], "dtype must be one of float32, .*got 'int8'"),
    (["--config.data.feed=disk"], "data.feed must be .*got 'disk'"),
    (["--config.data.name=cifar"], "data.name must be .*got 'cifar'"),
    (["--config.parallel.batch=0"], "parallel.batch must be .*got '0'"),
    (["--config.parallel.batch=-1"], "parallel.batch must be .*got '-1'"),
    (["--config.parallel.batch=some"], "parallel.batch must be .*got 'some'"),
    (["--config.parallel.map=vmap"], 'parallel.map must be "shard_map" or "pmap", got .vmap.'),
    (["--config.parallel.layers=0"], "parallel.layers must be .*got '0'"),
    (["--config.parallel.layers=auto"], "parallel.layers must be .*got 'auto'"),
    (["--config.optimizer.name=adamm"], "unknown optimizer.name 'adamm'"),
    (["--config.optimizer.learning_rate=0"], "optimizer.learning_rate must be positive, got 0"),
    (["--config.optimizer.warmup_steps=-1"], "warmup_steps must (?!be from 0 to -1).*got -1"),
    (["--config.cell.layers=0"], "cell.layers must be at least 1, got 0"),
    (["--config.cell.hidden_size=0"], "hidden_size must be at least 1, got 0"),
    (["--config.cell.activation=tahn"], "unknown activation 'tahn'; choose from tanh,"),
    (["--config.cell.kernel_init=glorot"], "unknown initialiser 'glorot'; choose from"),
    (["--config.cell.recurrent_init=glorot"], "unknown initialiser 'glorot'; choose from"),
    (["--config.cell.dropout.input_rate=1.5"], r"input_\w+ must be .*got 1.5"),
    (["--config.cell.reset=after"], "BasicRNN has no field reset; leave cell.reset out"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_cannot_be_meant_is_refused_in_one_sentence_by_name_and_value(arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(*arguments)
    assert "\n" not in str(error.value)


def test_a_missing_config_is_refused_with_the_usage():
    with pytest.raises(ConfigError, match="no config is given; usage: --config FILE"):
        read_config([])


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown variant 'rnn151' .*choose from rnn150, .*embedded"):
        read(config=f"{MNIST}:rnn151")


@pytest.mark.parametrize(
    ("variant", "nearest"), [("embeded", "embedded"), ("RNN150", "rnn150"), ("lstm_150", "lstm150")]
)
def test_the_nearest_variant_is_suggested(variant, nearest):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'") as error:
        read(config=f"{MNIST}:{variant}")
    assert "\n" not in str(error.value)


NEAREST = [
    ("--config.epoch=3", "the config has no field 'epoch'; did you mean 'epochs'"),
    ("--config.optimizer.lerning_rate=3", "OptimizerConfig has no field 'lerning_rate'; did you mean 'learning_rate'"),
    ("--config.optimiser.name=sgd", "the config has no field 'optimiser'; did you mean 'optimizer'"),
    ("--config.cell.activaton=relu", r"BasicRNN has no field activaton; .*; did you mean 'activation'"),
    ("--config.cell.kind=lstm", r"unknown cell 'lstm'; .*; did you mean 'LSTM'"),
    ("--config.learning_rate=3", r"no field 'learning_rate'; did you mean 'optimizer\.learning_rate'\?$"),
    ("--config.activation=relu", r"no field 'activation'; did you mean 'cell\.activation'\?$"),
    ("--config.name=sgd", r"no field 'name'; did you mean '(optimizer|data)\.name' or '(optimizer|data)\.name'\?$"),
    ("--config.zzzzzz=3", "the config has no field 'zzzzzz'; --help lists the fields$"),
]


@pytest.mark.parametrize(("flag", "message"), NEAREST)
def test_the_nearest_field_is_suggested(flag, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(flag)
    assert "\n" not in str(error.value)


def test_a_file_that_lists_no_variants_says_itself_which_there_are(tmp_path):
    text = "def get_config(variant='a'):\n    raise ValueError(f'no {variant}; choose a')"
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match="no b; choose a"):
        read(config=f"{tmp_path / 'own.py'}:b")


def test_a_file_may_have_a_table_of_configs_in_place_of_a_function(tmp_path):
    text = "from rnnjax.tasks.mnist import Config\nVARIANTS = {'a': Config(), 'b': Config(epochs=7)}\nDEFAULT = 'b'"
    (tmp_path / "own.py").write_text(text)
    name = str(tmp_path / "own.py")
    assert read(config=name).epochs == 7
    assert read("--config.epochs=3", config=f"{name}:a").epochs == 3
    file = read_config_file(name)
    assert (file.default(), file.variants()) == ("b", ["a", "b"])
    file.config().epochs = 9
    assert file.config().epochs == 7
    with pytest.raises(ConfigError, match=r"unknown variant 'c' of .*own\.py; choose from a, b"):
        read(config=f"{name}:c")


@pytest.mark.parametrize("name", shipped_configs())
def test_configs_of_the_library_are_tables(name):
    module = read_config_file(name).module
    assert module.DEFAULT in module.VARIANTS
    assert not hasattr(module, "get_config")


def test_a_missing_file_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"configs/nothing\.py"):
        read(config="configs/nothing.py")


FILES = {
    "syntax": ("def get_config(:", "syntax"),
    "raises": ("def get_config():\n    raise RuntimeError('no such corpus')", "no such corpus"),
    "imports": ("import no_such_package", "no_such_package"),
    "says nothing": ("raise RuntimeError", "config file raised RuntimeError"),
    "says nothing of a key": ("def get_config():\n    raise KeyError", "KeyError|config file"),
    "ends the process": ("import sys\nsys.exit(3)", "3"),
    "no table": ("VARIANTS = ['a']\nDEFAULT = 'a'", "has neither VARIANTS with a DEFAULT in it nor get_config"),
    "no default": ("VARIANTS = {'a': 1}", "has neither VARIANTS with a DEFAULT in it nor get_config"),
    "no config in the table": ("VARIANTS = {'a': 1}\nDEFAULT = 'a'", "VARIANTS must hold a .*TrainConfig, got int"),
    "no config": ("def get_config():\n    return {}", "get_config|TrainConfig"),
    "another config": (
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'epochs': 1})",
        "get_config|TrainConfig",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_that_makes_no_config_is_refused_with_the_reason(text, message, tmp_path):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read(config=str(tmp_path / "broken.py"))
    assert "\n" not in str(error.value)


# Configs as values


def test_a_config_that_was_read_is_frozen():
    config = read()
    with pytest.raises(dataclasses.FrozenInstanceError, match="epochs"):
        config.epochs = 7
    with pytest.raises(dataclasses.FrozenInstanceError, match="hidden_size"):
        config.cell.hidden_size = 7
    assert (config.epochs, config.cell.hidden_size) == (5, 150)


def test_before_that_fields_can_be_set_but_no_new_ones():
    config = TrainConfig()
    config.epochs = 7
    assert config.epochs == 7
    with pytest.raises(AttributeError, match="TrainConfig has no field 'epoch'; did you mean 'epochs'"):
        config.epoch = 7
    with pytest.raises(AttributeError, match="BasicRNN has no field hidden"):
        config.cell.hidden = 7


def test_configs_do_not_share_their_parts():
    one, other = TrainConfig(), TrainConfig()
    one.cell.hidden_size = 7
    assert other.cell.hidden_size == 150


EXAMPLES = [
    mnist.Config(),
    mnist.Config(
        seed=3,
        dtype="bfloat16",
        cell=CellConfig(kind="LSTM", peephole=True, cell_clip=1.5, dropout={"state_rate": 0.1, "variational": True}),
        optimizer=OptimizerConfig(name="sgd", momentum=0.9, schedule="cosine", warmup_steps=3),
        data=DataConfig(name="mnist", path="/data", feed="host"),
        parallel=ParallelConfig(batch="2"),
    ),
]


@pytest.mark.parametrize("config", EXAMPLES)
def test_a_config_survives_json(config):
    found = from_dict(mnist.Config, json.loads(json.dumps(to_dict(config))))
    assert found == config
    assert to_dict(freeze(found)) == to_dict(config)
    assert from_dict(mnist.Config, to_dict(found)) == found


DEEP = [[]]
for _ in range(10_000):
    DEEP = [DEEP]

WRONG_TYPES = [
    {"epochs": True},
    {"epochs": "3"},
    {"epochs": None},
    {"epochs": 1.0},
    {"epochs": DEEP},
    {"epochs": [0] * 10_000},
    {"cell": "LSTM"},
    {"cell": {"kind": "LSTM", "peephole": 1}},
    {"cell": {"cell_clip": True, "kind": "LSTM"}},
    {"data": []},
    {"optimizer": {"learning_rate": "fast"}},
    {"task": 3},
]


@pytest.mark.parametrize("values", WRONG_TYPES, ids=[f"{i}" for i in range(len(WRONG_TYPES))])
def test_a_value_of_another_type_in_a_dict_is_refused_in_a_short_sentence(values):
    with pytest.raises(ConfigError, match=r"^\w+ of \w+ must be .*, got ") as error:
        from_dict(mnist.Config, values)
    assert len(str(error.value)) < 200


def test_an_unknown_name_in_a_dict_is_refused():
    with pytest.raises(ConfigError, match="Config has no field 'colour'"):
        from_dict(mnist.Config, {"colour": "red"})
    with pytest.raises(ConfigError, match="OptimizerConfig has no field 'colour'"):
        from_dict(mnist.Config, {"optimizer": {"colour": "red"}})


def test_differences_are_the_dotted_names_of_fields():
    one = to_dict(mnist.Config())
    assert differences(one, one) == []
    other = to_dict(mnist.Config(seed=1, cell=CellConfig(hidden_size=7, layers=2)))
    assert differences(one, other) == ["cell.hidden_size", "cell.layers", "seed"]
    assert differences(other, one) == ["cell.hidden_size", "cell.layers", "seed"]


def test_a_field_that_only_one_has_is_a_difference():
    assert differences({"a": 1}, {"a": 1, "b": 2}) == ["b"]
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a"]


def test_a_config_of_the_library_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, name, _ = read_config(["--config", "mnist:rnn31"])
    assert (config.cell.hidden_size, name) == (31, "mnist-rnn31")
    with pytest.raises(ConfigError, match=r"unknown config 'mnits'; choose from .*did you mean 'mnist'"):
        read_config(["--config", "mnits"])
    with pytest.raises(ConfigError, match=r"no file configs/mnist.py; the library's own config is found .* by 'mnist'"):
        read_config(["--config", "configs/mnist.py"])


@pytest.mark.parametrize(
    ("flags", "features"),
    [
        (["--config.data.features=height,2"], ("height", "2")),
        (["--config.data.features", "a b, c"], ("a b", "c")),
        (["--config.data.features=('a','b')"], ("a", "b")),
        (["--config.data.features=a", "--config.data.features=b"], ("b",)),
        (["--config.data.features=none"], ()),
    ],
)
def test_a_list_of_names_is_written_plainly_with_commas(flags, features):
    config, *_ = read_config(["--config", "configs/own.py", "--config.data.path=file", *flags])
    assert config.data.features == features


def test_a_field_that_came_later_is_no_part_of_a_config_until_it_is_set_so_that_earlier_runs_resume():
    assert "context" not in to_dict(translate.Config())
    config = translate.Config(context=True)
    assert to_dict(config)["context"] is True
    assert from_dict(translate.Config, to_dict(config)) == config
    assert not from_dict(translate.Config, to_dict(translate.Config())).context
