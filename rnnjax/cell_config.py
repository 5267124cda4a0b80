"""The group of a config that describes the cell: its options are the fields of the cell's and its wrappers' classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import rnnjax.cells as library
from rnnjax.cells.traits import attends
from rnnjax.cells.tree import made_of_cells
from rnnjax.class_options import ClassOptions, config_fields, required
from rnnjax.config_group import ConfigGroup
from rnnjax.errors import ConfigError, did_you_mean, require
from rnnjax.named_code import named_object

_MOST_LAYERS = 1000


@dataclasses.dataclass
class _CellFields(ConfigGroup):
    """The fields of `CellConfig` itself.

    Attributes:
      kind: a cell of rnnjax by its class name, or your own as package.module:Class.
      layers: number of layers, which all have the same cell and wrappers.
      wrappers: the wrappers around each layer, the innermost first: those of rnnjax, such as dropout and residual, and
        your own as package.module:Class. Setting options of another wrapper of rnnjax adds it as the outermost.
    """

    kind: str = "BasicRNN"
    layers: int = 1
    wrappers: tuple[str, ...] = ()


_CELL_FIELDS = {field.name: field for field in dataclasses.fields(_CellFields())}


class CellConfig(ClassOptions):
    """Which recurrent cell, and its options: the fields of the class that `kind` names.

    ``CellConfig(kind="LSTM", hidden_size=200, peephole=True, layers=2, dropout={"input_rate": 0.2})``: an option that
    is not given has the default of the class. Options of wrappers are groups of their own: ``cell.dropout.input_rate``.

    Args:
      kind, layers, wrappers: as in the config.
      options: fields of the class, such as `hidden_size` (150 if the class has no default); and for each wrapper, by
        its name, its fields as a dict.

    Raises:
      ConfigError: for an unknown cell or wrapper, or a field that it does not have.
    """

    read_first: ClassVar[tuple[str, ...]] = ("kind", "wrappers")
    without_default: ClassVar[Mapping[str, Any]] = {"hidden_size": 150}
    group_fields: ClassVar[type[ConfigGroup]] = _CellFields

    kind: str
    layers: int
    wrappers: tuple[str, ...]

    def __init__(self, kind: str = "BasicRNN", layers: int = 1, wrappers: Iterable[str] = (), **options: Any):
        self.__dict__.update(_path="cell", _listed=(), _around={}, kind=kind, layers=layers)
        self.wrappers = tuple(wrappers)
        for name, value in options.items():
            setattr(self, name, value)

    def described(self) -> type:
        return cell_class(self.kind)

    @property
    def __dataclass_fields__(self) -> dict[str, dataclasses.Field]:  # pyright: ignore
        groups: Any = dataclasses.make_dataclass("Groups", [(name, ClassOptions | None) for name in self._around])
        fields = _CELL_FIELDS | groups.__dataclass_fields__ | self.class_fields() | _CELL_FIELDS
        return dict(sorted(fields.items(), key=lambda item: (item[0] not in _CELL_FIELDS, item[0] in self._around)))

    def __getattr__(self, name: str) -> Any:
        if name == "wrappers":
            listed = {_group_name(each) for each in self._listed}
            more = (name for name, group in self._around.items() if name not in listed and group.chosen())
            return (*self._listed, *more)
        around = {} if name.startswith("_") else self._around
        if name in around and name not in self.class_fields():
            return around[name]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.refuse_if_frozen(name, value)
        if name == "wrappers":
            self._set_wrappers(value)
        elif name in self._around and name not in self.class_fields():
            self._set_wrapper(name, value)
        else:
            super().__setattr__(name, value)

    def _set_wrappers(self, value: Iterable[str]) -> None:
        listed = tuple(value)
        classes = {_group_name(name): wrapper_class(name) for name in listed}
        require(
            len(classes) == len(listed),
            f"cell.wrappers names a wrapper twice: {', '.join(listed)}; each name has one group of options, so name a "
            "wrapper once, or a class of your own that derives from it and has another name",
        )
        for name in classes:
            taken = name in _CELL_FIELDS or name in self.class_fields()
            require(not taken, f"the options of the wrapper {name} would hide the field {name} of {self.kind}")
        before, known = self._around, wrapper_classes() | classes
        around = {name: ClassOptions(of, f"cell.{name}") for name, of in known.items()}
        unchanged = [name for name in classes if name in before and before[name].described() is classes[name]]
        self.__dict__["_around"] = around | {name: before[name] for name in unchanged}
        self.__dict__["_listed"] = listed

    def _set_wrapper(self, name: str, value: Any) -> None:
        if value is None:
            self.wrappers = tuple(each for each in self.wrappers if _group_name(each) != name)
            return
        if name not in {_group_name(each) for each in self._listed}:
            self.__dict__["_listed"] = (*self.wrappers, name)
        values = value.chosen() if isinstance(value, ClassOptions) else value
        require(isinstance(values, Mapping), f"cell.{name} must be a group of options, got {value!r}")
        self._around[name] = ClassOptions(self._around[name].described(), f"cell.{name}", **values)

    def around(self) -> dict[str, ClassOptions]:
        """Returns the options of the wrappers around each layer, the innermost first."""
        return {_group_name(each): self._around[_group_name(each)] for each in self.wrappers}

    def chosen(self) -> dict[str, Any]:
        return {name: value for name, value in super().chosen().items() if name not in _CELL_FIELDS}

    def items(self) -> Iterator[tuple[str, Any]]:
        yield from (("kind", self.kind), ("layers", self.layers), ("wrappers", self.wrappers))
        yield from super().items()
        yield from ((name, group) for name, group in self.around().items() if group.chosen())

    def inner_groups(self) -> Iterable[ConfigGroup]:
        return self._around.values()

    def fresh(self) -> CellConfig:
        return CellConfig()

    def of_kind(self, kind: str) -> CellConfig:
        """Returns the config for a cell of another kind, without the options that this has not.

        Raises:
          ConfigError: for an unknown cell.
        """
        fields = config_fields(cell_class(kind))
        options = {name: value for name, value in self.chosen().items() if name in fields}
        groups = {name: group for name, group in self.around().items() if name not in fields}
        wrappers = [each for each in self.wrappers if _group_name(each) in groups]
        return CellConfig(kind, self.layers, wrappers, **options, **groups)

    def check(self) -> None:
        super().check()
        build_cell(self)

    def __repr__(self) -> str:
        return f"CellConfig({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def build_cell(config: CellConfig) -> library.Cell:
    """Returns the cell, a `Stack` where there are several layers.

    Raises:
      ConfigError: for an unknown cell, a field that it does not have, or a value that it refuses.
    """
    require(config.layers >= 1, f"cell.layers must be at least 1, got {config.layers}")
    require(config.layers <= _MOST_LAYERS, f"cell.layers must be at most {_MOST_LAYERS}, got {config.layers}")
    for name in config.chosen():
        require(name in config.class_fields(), config.unknown(name))
    cell = _built("cell", config)
    for name, options in config.around().items():
        cell = _built(f"cell.{name}", options, cell)
    return cell if config.layers == 1 else library.Stack((cell,) * config.layers)


def _built(path: str, options: ClassOptions, *inner: library.Cell) -> library.Cell:
    """Returns the cell that options describe, around another one if that is given."""
    of, arguments = options.described(), options.arguments()
    for name in required(of)[len(inner) :]:
        require(name in arguments, f"{of.__name__} needs {name}; set {path}.{name}")
    try:
        cell = of(*inner, **arguments)
        hash(cell)  # as JAX will, because cells are static arguments
    except Exception as error:  # a user's cell can raise anything
        raise ConfigError(f"{path}: {str(error) or type(error).__name__}") from error
    return cell


def cell_class(kind: str) -> type[library.Cell]:
    """Returns the class of a single cell by its name.

    Raises:
      ConfigError: if there is none of that name, or it is not a dataclass.
    """
    names = sorted(cell_classes())
    choose = f"choose {', '.join(names[:-1])} or {names[-1]}, or name your own as package.module:Class"
    unknown = f"unknown cell {kind!r}"
    require(":" in kind or kind in library.__all__, f"{unknown}; {choose}{did_you_mean(kind, names)}")
    cell = named_object(kind if ":" in kind else f"{library.__name__}:{kind}", unknown)
    single = _is_kind_of(cell, library.Cell) and not made_of_cells(cell)
    require(single, f"cell.kind must name a single cell, such as {' or '.join(names[:2])}, got {kind!r}")
    require(dataclasses.is_dataclass(cell), f"the cell {kind!r} must be a frozen dataclass: decorate its class")
    return cell


def wrapper_class(name: str) -> type[library.Wrapper]:
    """Returns the class of a wrapper by its name in `cell.wrappers`.

    Raises:
      ConfigError: if there is none of that name, or it is not a dataclass.
    """
    known = wrapper_classes()
    if name in known:
        return known[name]
    choose = f"choose from {', '.join(known)}, or name your own as package.module:Class"
    unknown = f"unknown wrapper {name!r}"
    require(":" in name, f"{unknown}; {choose}{did_you_mean(name, known)}")
    wrapper = named_object(name, unknown)
    fits = _is_kind_of(wrapper, library.Wrapper) and hasattr(wrapper, "__dataclass_fields__")
    require(fits, f"cell.wrappers must name wrappers that are frozen dataclasses, got {name!r}")
    return wrapper


C = TypeVar("C", bound=library.Cell)


def _is_kind_of(value: Any, base: type) -> bool:
    """Says whether a value is a class derived from `base`."""
    return isinstance(value, type) and issubclass(value, base)


def cell_classes() -> dict[str, type[library.Cell]]:
    """Returns rnnjax's single cells by their names."""
    cells = {name: of for name, of in _public(library.Cell).items() if not inspect.isabstract(of)}
    return {name: of for name, of in cells.items() if not made_of_cells(of)}


def wrapper_classes() -> dict[str, type[library.Wrapper]]:
    """Returns rnnjax's wrappers by their names in a config: LearnedState is learned_state."""
    return {_snake(name): of for name, of in _public(library.Wrapper).items() if of is not library.Wrapper}


def _public(base: type[C]) -> dict[str, type[C]]:
    """Returns the classes of rnnjax derived from `base` that attend to no memory, by their names."""
    named = {name: getattr(library, name) for name in library.__all__}
    return {name: of for name, of in named.items() if _is_kind_of(of, base) and not attends(of)}


def _group_name(wrapper: str) -> str:
    """Returns the name of the group of a wrapper's options: of my_package.cells:Noise it is noise."""
    return _snake(wrapper.rpartition(":")[2])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
