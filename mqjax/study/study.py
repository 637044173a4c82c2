"""The main job from Python: cost table, search, test and run folder; `mqjax search` is this with its options parsed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mqjax.accuracy.judge import default_accuracy
from mqjax.errors import InputError, unknown
from mqjax.hw import load_arch
from mqjax.io.files import cache_folder
from mqjax.mapper.decision import nothing_fits
from mqjax.mapper.table import CostTable, cost_table
from mqjax.mapspace.padding import padded_or_itself, padding_of
from mqjax.mapspace.space import Mapspace
from mqjax.models import NETWORKS
from mqjax.models.files import is_file
from mqjax.network.wiring import Wiring
from mqjax.study.bitsearch import SearchResult, check_options, search
from mqjax.study.config import StudyConfig
from mqjax.study.runs import check_free, claim, describe, read_settings, write_run
from mqjax.types import BitWidths, Layer


class Judge(Protocol):
    """Accuracy of assignments, genomes int [N, L, 2]: input and weight width of each of `layers`.

    For a network that is no chain of its layers, an attribute `wiring` (`mqjax.network.wiring.Wiring`) says which layer reads
    and writes which tensor; where layers do not have one input gene each, genomes are then int [N, T + L] in its order.
    """

    layers: Sequence[Layer]
    """The network as the mapper sees it."""

    cache_key: Any
    """A text; equal keys mean equal accuracies."""

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] in 0..1 by which the search goes."""
        ...

    def test(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] on data that the search never sees."""
        ...


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a front. genome: int8 [L, 2] or, of a network that is no chain, [T + L]; objectives: in the order of the run's names; accuracies in 0..1."""

    id: int
    genome: np.ndarray
    objectives: tuple[float, ...]
    test_accuracy: float
    retrained_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished study: its folder, the table it priced by, all it evaluated, the front, and what front.json holds."""

    folder: Path
    config: StudyConfig
    table: CostTable
    result: SearchResult
    members: tuple[Member, ...]
    document: dict[str, Any]


class Silent:
    """A progress bar that shows nothing; `mqjax.show.progress.Bar` has the same methods."""

    def say(self, note: str) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def update(self, completed: int, note: str = "") -> None: ...


Bars = Callable[[str, int, str], contextlib.AbstractContextManager[Any]]
"""Opens a progress bar: title, number of units, unit."""


def silent(title: str, total: int, unit: str) -> contextlib.AbstractContextManager[Silent]:
    """A bar that shows nothing."""
    return contextlib.nullcontext(Silent())


def load_judge(name: str) -> Judge:
    """The judge that "module:function" returns; modules are also looked for in the current directory."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"--judge must be module:function, such as my_judge:make, not {name!r}")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"--judge {name}: the module {module!r} cannot be imported: {error}") from None
    finally:
        sys.path.remove("")
    make = getattr(found, function, None)
    if not callable(make):
        raise InputError(f"--judge {name}: {module!r} has no function {function!r}")
    judge: Any = make()
    for part in ("layers", "cache_key", "test", "__call__"):
        if not hasattr(judge, part):
            raise InputError(f"--judge {name}: what {function!r} returns is no judge: it has no {part!r}")
    return judge


def run_study(
    config: StudyConfig | None = None,
    *,
    judge: Judge | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Bars = silent,
) -> Run:
    """Search widths, test the front, and write the run folder; a resumed run takes its settings from its folder.

    judge: default, the one that the configuration names: quantized accuracy of its network on its data set.
    folder: new or empty (default: `StudyConfig.default_folder`); with `resume`, the run to continue.
    Raises `InputError` for bad settings and where a layer fits nowhere, before a folder is made.
    """
    started = time.perf_counter()
    if resume:
        if folder is None:
            raise InputError("a run to resume needs its folder")
        stored = read_settings(folder)
        config = StudyConfig.from_settings(stored, folder / "config.json")
    else:
        config = config or StudyConfig()
        folder = folder or config.default_folder()
        stored = config.settings()
    prepared = _Prepared(config, judge)
    if resume:
        prepared.check(folder, stored)
    else:
        check_free(folder)
    return _study(prepared, config, folder, started, resume, progress)


class _Prepared:
    """Everything that a run needs and that can be wrong, loaded before the run folder is touched."""

    def __init__(self, config: StudyConfig, judge: Judge | None) -> None:
        settings = config.settings()
        self.objectives = tuple(settings["objectives"].split(","))
        check_options(self.objectives, settings["population"], settings["generations"], settings["map_by"])
        if settings["seed"] < 0:
            raise InputError(f"--seed must not be negative, but is {settings['seed']}")
        for name in ("images", "test_images"):
            if settings[name] < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {settings[name]}")
        if settings["retrain"] < 0:
            raise InputError(f"--retrain must be a number of epochs, 0 for none, not {settings['retrain']}")
        if judge is None and config.judge is not None:
            judge = load_judge(config.judge)
        if judge is None and config.network not in NETWORKS and not is_file(config.network):
            raise InputError(unknown("network", config.network, NETWORKS))
        if judge is not None and config.retrain:
            raise InputError("--retrain trains the package's own networks; leave it at 0 with a judge of your own")
        self.arch = load_arch(config.arch, dialect=config.dialect)
        self.own = judge is not None
        self.accuracy: Any = judge or default_accuracy(
            config.network,
            config.dataset,
            method=config.accuracy,
            checkpoint=config.checkpoint,
            num_images=config.images,
            data_dir=config.data_dir,
        )
        if self.own:
            self.layers = list(self.accuracy.layers)
            self.wiring = getattr(self.accuracy, "wiring", None) or Wiring.chain(self.layers)
        else:
            self.layers = self.accuracy.architecture.layers(depthwise=config.depthwise)
            self.wiring = self.accuracy.architecture.wiring()
        self.constraints = config.constraints
        self.mapped = {
            layer: padded_or_itself(self.arch, layer, constraints=config.constraints, pad=config.pad)
            for layer in dict.fromkeys(self.layers)
        }
        self.digests = {
            "arch_digest": hashlib.sha256(repr(self.arch).encode()).hexdigest()[:32],
            "accuracy_digest": str(self.accuracy.cache_key),
        }

    def check(self, folder: Path, settings: dict[str, Any]) -> None:
        """Raise `InputError` if the accelerator or the network is no longer what the run began with."""
        for name, digest in self.digests.items():
            if settings.get(name) != digest:
                what = {"arch_digest": "the accelerator", "accuracy_digest": "the trained network or its data"}[name]
                raise InputError(f"{folder} cannot be resumed: {what} is not what the run began with")


def _study(prepared: _Prepared, config: StudyConfig, folder: Path, started: float, resume: bool, bar: Bars) -> Run:
    settings = config.settings()

    arch, accuracy = prepared.arch, prepared.accuracy
    seconds = {"start": time.perf_counter() - started}
    clock = time.perf_counter()
    with bar("tabulating", len(set(prepared.layers)), "layers") as progress:
        table = cost_table(
            arch,
            prepared.layers,
            constraints=settings["constraints"],
            pad=settings["pad"],
            seconds=settings["seconds"],
            cache=cache_folder(),
            progress=lambda layer: progress.advance(),
            say=progress.say,
        )
    _check_fit(prepared, table)
    if not resume:
        claim(folder, {**settings, **prepared.digests})
    print(f"run folder: {folder}", file=sys.stderr)
    seconds["table"] = time.perf_counter() - clock
    total = settings["population"] * (settings["generations"] + 1)
    with bar("searching", total, "assignments") as progress:
        result = search(
            table,
            accuracy,
            objectives=prepared.objectives,
            population=settings["population"],
            generations=settings["generations"],
            seed=settings["seed"],
            wiring=prepared.wiring,
            map_by=settings["map_by"],
            folder=folder / "population",
            cache=cache_folder(),
            progress=lambda done, _: progress.update(done),
        )
    clock = time.perf_counter()
    images, test, about = _test(prepared, config)
    with bar("testing", len(result.front) + 7, "assignments") as progress:
        document = describe(
            arch,
            table,
            result,
            wiring=prepared.wiring,
            test_accuracy=lambda genomes: test(genomes, progress.advance),
            map_by=settings["map_by"],
            about=about,
        )
    seconds["test"] = time.perf_counter() - clock
    if settings["retrain"]:
        # The front is worth hours; it is kept should the training be interrupted.
        write_run(folder, {**document, "seconds": {**seconds, **document["seconds"]}}, result)
        clock = time.perf_counter()
        _retrain(prepared, settings, folder, result, document, images, bar)
        seconds["retrain"] = time.perf_counter() - clock
    document["seconds"] = {**{k: round(v, 3) for k, v in seconds.items()}, **document["seconds"]}
    write_run(folder, document, result)
    members = tuple(
        Member(
            member["id"],
            genome,
            tuple(member["objectives"].values()),
            member["test_accuracy"],
            member.get("retrained_accuracy"),
        )
        for member, genome in zip(document["members"], result.genomes[result.front], strict=True)
    )
    return Run(folder, config, table, result, members, document)


def _test(prepared: _Prepared, config: StudyConfig) -> tuple[Any, Callable[..., np.ndarray], dict[str, Any]]:
    """Test images (none of a user's judge), accuracy of genomes on them, and words about both for front.json."""
    accuracy = prepared.accuracy
    if prepared.own:

        def judged(genomes: np.ndarray, advance: Callable[[int], None]) -> np.ndarray:
            values = np.asarray(accuracy.test(genomes), np.float64)
            advance(len(genomes))
            return values

        return None, judged, {"accuracy": {"kind": "judge", "judge": config.judge or type(accuracy).__name__}}
    data = accuracy.trained.dataset
    split = data.split("test")
    limit = min(config.test_images, data.count(split))
    images = data.sized(split, accuracy.architecture.resolution, limit=limit)
    test = accuracy.on(images, split=split)
    about = {
        "accuracy": {**accuracy.describe(), "float": accuracy.float_accuracy},
        "test": {"split": split, "images": limit, "float": test.float_accuracy},
    }
    return images, lambda genomes, advance: test(genomes, progress=advance), about


def _check_fit(prepared: _Prepared, table: Any) -> None:
    """Say which layers are padded. Raises `InputError` where one fits at no widths."""

    for layer, entries in zip(table.unique, table.tables, strict=True):
        if (entries.index[0, :-1] < 0).all():
            space = Mapspace(prepared.arch, prepared.mapped[layer], constraints=prepared.constraints)
            raise nothing_fits(layer, space, BitWidths(2, 2, 2), covered=entries.covered)
        if larger := padding_of(layer, entries.mappings):
            print(f"{layer.name}: {larger}", file=sys.stderr)


def _retrain(
    prepared: _Prepared,
    settings: dict[str, Any],
    folder: Path,
    result: Any,
    document: dict[str, Any],
    test: Any,
    bar: Bars,
) -> None:
    """Train every member of the front at its widths, and note its accuracy on the test images beside the one without."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mqjax.accuracy.training import QUANTIZED, accuracy, train
    from mqjax.data import training_images
    from mqjax.models.qat import QuantizedNetwork

    trained = prepared.accuracy.trained
    data, validation = training_images(trained.dataset, trained.model.architecture.resolution)
    config = dataclasses.replace(
        QUANTIZED, epochs=settings["retrain"], batch=min(QUANTIZED.batch, len(data)), seed=settings["seed"]
    )
    steps = len(data) // config.batch * config.epochs
    members = list(zip(document["members"], result.genomes[result.front], strict=True))
    with bar("retraining", steps * len(members), "steps") as progress, jax.enable_x64(False):
        for number, (member, genome) in enumerate(members):
            model = QuantizedNetwork(nnx.clone(trained.model), trained.quantizer, jnp.asarray(genome, jnp.int32))
            train(
                model,
                data,
                validation,
                folder / "retrained" / f"member_{member['id']:03d}",
                config=config,
                progress=lambda step, _, loss, done=steps * number: progress.update(done + step, f"loss {loss:.3f}"),
            )
            member["retrained_accuracy"] = accuracy(model, test)
    document["retrained"] = {"epochs": config.epochs, "training_images": len(data)}
