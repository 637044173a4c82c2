"""The main job from Python: cost table, search, test and run folder; `mqjax search` is this with its options parsed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import Divergence, Sensitivities, sensitivities, write_sensitivities
from mqjax.accuracy.trained import check_sizes
from mqjax.errors import InputError, unknown
from mqjax.hw import load_arch
from mqjax.io.files import cache_folder
from mqjax.mapper.optima import nothing_fits
from mqjax.mapper.table import CostTable, cost_table
from mqjax.mapspace.padding import padded_or_itself, padding_of
from mqjax.mapspace.space import Mapspace
from mqjax.models import NETWORKS
from mqjax.models.files import is_own
from mqjax.network.cost import network_cost
from mqjax.network.wiring import Wiring
from mqjax.progress import Bars, Progress, no_bars
from mqjax.study.bitsearch import SearchResult, check_options, evaluations, search
from mqjax.study.config import GENERATIONS, REHEARSED, StudyConfig
from mqjax.study.judges import Judge, load_judge
from mqjax.study.rehearsal import Rehearsed, measurements, rehearse, write_rehearsal
from mqjax.study.retraining import retrain
from mqjax.study.runs import check_free, claim, describe, read_settings, write_run
from mqjax.study.surrogate import Surrogate, summed_costs, summed_parts
from mqjax.types import WIDTHS, BitWidths


@dataclasses.dataclass(frozen=True)
class FrontMember:
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
    members: tuple[FrontMember, ...]
    document: dict[str, Any]


def run_study(
    config: StudyConfig | None = None,
    *,
    judge: Judge | None = None,
    folder: Path | None = None,
    resume: bool = False,
    bars: Bars = no_bars,
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
    return _study(prepared, folder, started, resume, bars)


class _Prepared:
    """Everything that a run needs and that can be wrong, loaded before the run folder is touched."""

    def __init__(self, config: StudyConfig, judge: Judge | None) -> None:
        generations = 0 if config.generations is None else config.generations
        check_options(config.objectives, config.population, generations, config.map_by)
        if judge is None and config.judge is not None:
            judge = load_judge(config.judge)
        if judge is None and config.network not in NETWORKS and not is_own(config.network):
            raise InputError(unknown("network", config.network, NETWORKS))
        if judge is not None and config.sizes:
            option = f"--{next(iter(config.sizes)).replace('_', '-')}"
            raise InputError(f"{option} cannot be given with a judge of your own, whose layers have their sizes")
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
            check_sizes(self.accuracy.trained, config.sizes)
            self.layers = self.accuracy.architecture.layers(depthwise=config.depthwise)
            self.wiring = self.accuracy.architecture.wiring()
        measures = judge is None or hasattr(judge, "sensitivities")
        begins = (
            config.surrogate and measures and "error" in config.objectives and bool(summed_parts(config.objectives))
        )
        if config.generations is None:
            generations = GENERATIONS[begins]
        self.config = dataclasses.replace(config, surrogate=begins, generations=generations)
        self.generations = generations
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


def _study(prepared: _Prepared, folder: Path, started: float, resume: bool, bars: Bars) -> Run:
    config = prepared.config
    seconds = {"start": time.perf_counter() - started}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        clock = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - clock

    with timed("table"):
        table = _priced_table(prepared, bars)
    if not resume:
        claim(folder, {**config.settings(), **prepared.digests})
    print(f"run folder: {folder}", file=sys.stderr)
    with timed("sensitivities"):
        surrogate = _measured_surrogate(prepared, table, folder, bars)
    with timed("rehearsal"):
        rehearsed = _rehearsed(prepared, table, surrogate, folder, bars)
    with bars("searching", evaluations(config.population, prepared.generations, surrogate), "assignments") as progress:
        result = search(
            table,
            prepared.accuracy,
            objectives=config.objectives,
            population=config.population,
            generations=prepared.generations,
            seed=config.seed,
            wiring=prepared.wiring,
            map_by=config.map_by,
            folder=folder / "population",
            cache=cache_folder(),
            progress=progress,
            surrogate=surrogate,
            rehearsed=rehearsed,
        )
    with timed("test"):
        images, test, about = _test(prepared)
        with bars("testing", len(result.front) + len(WIDTHS), "assignments") as progress:
            document = describe(
                prepared.arch,
                table,
                result,
                wiring=prepared.wiring,
                test_accuracy=lambda genomes: test(genomes, progress),
                map_by=config.map_by,
                surrogate=surrogate,
                rehearsed=rehearsed,
                about=about,
            )
    if config.retrain:
        # The front is worth hours; it is kept should the training be interrupted.
        write_run(folder, {**document, "seconds": {**seconds, **document["seconds"]}}, result)
        with timed("retrain"):
            genomes, epochs = result.genomes[result.front], config.retrain
            retrain(
                prepared.accuracy.trained, genomes, document, images, folder, epochs=epochs, seed=config.seed, bars=bars
            )
    document["seconds"] = {**{k: round(v, 3) for k, v in seconds.items()}, **document["seconds"]}
    write_run(folder, document, result)
    members = tuple(
        FrontMember(
            member["id"],
            genome,
            tuple(member["objectives"].values()),
            member["test_accuracy"],
            member.get("retrained_accuracy"),
        )
        for member, genome in zip(document["members"], result.genomes[result.front], strict=True)
    )
    return Run(folder, config, table, result, members, document)


def _priced_table(prepared: _Prepared, bars: Bars) -> CostTable:
    """Optimal costs of all layers, saying which of them are padded. Raises `InputError` where one fits at no widths."""
    config = prepared.config
    with bars("tabulating", len(set(prepared.layers)), "layers") as progress:
        table = cost_table(
            prepared.arch,
            prepared.layers,
            constraints=config.constraints,
            pad=config.pad,
            seconds=config.seconds,
            cache=cache_folder(),
            progress=progress,
        )
    for layer, entries in zip(table.unique, table.tables, strict=True):
        if (entries.index[0, :-1] < 0).all():
            space = Mapspace(prepared.arch, prepared.mapped[layer], constraints=config.constraints)
            raise nothing_fits(layer, space, BitWidths(2, 2, 2), covered=entries.covered)
        if larger := padding_of(layer, entries.mappings):
            print(f"{layer.name}: {larger}", file=sys.stderr)
    return table


def _measured_surrogate(prepared: _Prepared, table: CostTable, folder: Path, bars: Bars) -> Surrogate | None:
    """What the search begins from: measured losses (kept in the run folder) and summed costs."""
    config, wiring = prepared.config, prepared.wiring
    if not config.surrogate:
        return None
    if prepared.own:
        losses = Sensitivities(*(np.asarray(part, np.float64) for part in prepared.accuracy.sensitivities()))
    else:
        with bars("measuring", wiring.genes * (len(WIDTHS) - 1) + 1, "sensitivities") as progress:
            losses = sensitivities(prepared.accuracy, cache=cache_folder(), progress=progress)
    write_sensitivities(folder / "sensitivities.json", losses)
    costs = summed_costs(table, config.objectives, config.map_by)
    return Surrogate(wiring, losses.kernels, losses.tensors, costs)


def _rehearsed(
    prepared: _Prepared, table: CostTable, surrogate: Surrogate | None, folder: Path, bars: Bars
) -> Rehearsed | None:
    """What a search on divergences alone found, if the judge can measure them; kept in the run folder."""
    config = prepared.config
    if surrogate is None or (prepared.own and not hasattr(prepared.accuracy, "divergence")):
        return None
    measure = prepared.accuracy.divergence if prepared.own else Divergence(prepared.accuracy, cache=cache_folder())
    names = [name for name in config.objectives if name != "error"]
    population, generations = config.population, REHEARSED * prepared.generations
    with bars("rehearsing", measurements(population, generations), "assignments") as progress:

        def loss(genomes: np.ndarray) -> np.ndarray:
            values = np.asarray(measure(prepared.wiring.shaped(genomes)), np.float64)
            progress.advance(len(genomes))
            return values

        def hardware(genomes: np.ndarray) -> np.ndarray:
            return network_cost(table, genomes, names, wiring=prepared.wiring, map_by=config.map_by)

        found = rehearse(surrogate, loss, hardware, seed=config.seed, population=population, generations=generations)
    write_rehearsal(folder / "rehearsal.csv", found)
    return found


def _test(prepared: _Prepared) -> tuple[Any, Callable[..., np.ndarray], dict[str, Any]]:
    """Test images (none of a user's judge), accuracy of genomes on them, and words about both for front.json."""
    accuracy, config = prepared.accuracy, prepared.config
    if prepared.own:

        def judged(genomes: np.ndarray, progress: Progress) -> np.ndarray:
            values = np.asarray(accuracy.test(genomes), np.float64)
            progress.advance(len(genomes))
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
    return images, lambda genomes, progress: test(genomes, progress=progress), about
