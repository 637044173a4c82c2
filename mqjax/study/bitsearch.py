"""The main job: NSGA-II over per-layer bit-widths, with quantized accuracy against exact hardware cost.

Everything random derives from (seed, generation), and the state is checkpointed after every generation, so a run that
was killed continues to the identical front.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp

from mqjax.errors import InputError
from mqjax.io.checkpoints import open_manager, restore_latest
from mqjax.io.files import AppendedTable
from mqjax.mapper.table import CostTable
from mqjax.network.cost import network_cost
from mqjax.network.wiring import Wiring
from mqjax.objectives import mapping_metric, objective_of
from mqjax.progress import SILENT, Progress
from mqjax.study.nsga2 import NSGA2, State, uniform_population
from mqjax.study.pareto import pareto_front
from mqjax.study.rehearsal import Rehearsed
from mqjax.study.seeding import ROUNDS, first_population
from mqjax.study.surrogate import Surrogate
from mqjax.types import WIDTHS


class Accuracy(Protocol):
    """What a search needs to know of a network's accuracy."""

    cache_key: Any
    """A text; equal keys mean equal accuracies. An attribute `at_once`, if there is one, says how many genomes are best
    given together."""

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] of genomes int [N, L, 2] or, of a network that is no chain, [N, T + L] (`Wiring`)."""
        ...


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """All assignments that a search evaluated, in order.

    genomes: int8 [E, L, 2], or [E, T + L] as `Wiring` orders them where the network is no chain; objectives: float64 [E, K],
    minimised; generation: int32 [E], 0 for the first population; front: int64 [F], positions of the non-dominated ones that
    fit the accelerator, by the first objective. seconds: where the time went.
    """

    names: tuple[str, ...]
    genomes: np.ndarray
    objectives: np.ndarray
    generation: np.ndarray
    front: np.ndarray
    seconds: dict[str, float]

    def uniform(self) -> dict[int, int]:
        """Position of each uniform assignment, by its width."""
        return {
            width: int(np.flatnonzero((self.genomes.reshape(len(self.genomes), -1) == width).all(axis=1))[0])
            for width in WIDTHS
        }


def search(
    table: CostTable,
    accuracy: Accuracy | None = None,
    *,
    objectives: Sequence[str] = ("error", "energy"),
    population: int = 48,
    generations: int = 20,
    seed: int = 0,
    wiring: Wiring | None = None,
    map_by: str | None = None,
    folder: Path | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
    surrogate: Surrogate | None = None,
    rehearsed: Rehearsed | None = None,
) -> SearchResult:
    """Search bit-widths in 2..8 for every kernel and every stored tensor of the network whose layers `table` prices.

    accuracy: needed for the objective "error" (1 - accuracy). population: individuals, even, at least 8 (the seven
    uniform assignments are always in the first). wiring: which layer reads and writes which tensor, default a chain.
    map_by: see `mqjax.network.cost.network_cost`. folder: where checkpoints go; a run found there is continued.
    cache: folder of accuracies known from other runs. progress: advanced by assignments, `evaluations` in all.
    surrogate: measured losses and costs, along whose front the first population lies, which may be larger than
    `population`; without it the first population are mutations of the uniform assignments. Needs the objective "error".
    rehearsed: see `mqjax.study.seeding.first_population`.
    """
    check_options(objectives, population, generations, map_by)
    if "error" in objectives and accuracy is None:
        raise InputError("the objective 'error' needs an accuracy function")
    if surrogate is not None and "error" not in objectives:
        raise InputError("a surrogate of the loss serves only searches with the objective 'error'")
    wiring = Wiring.chain(table.layers) if wiring is None else wiring
    evaluator = _Evaluator(table, accuracy, tuple(objectives), cache, wiring, map_by, progress)
    genes = wiring.genes
    algorithm = NSGA2(population, np.zeros(genes, np.int32), low=WIDTHS[0], high=WIDTHS[-1])
    params = algorithm.default_params
    run = _Run(folder, genes, len(objectives))
    root = jax.random.key(seed)
    with run:
        state, start = run.restore(evaluator.seconds)
        begin = evaluations(population, 0, surrogate)
        if start:
            evaluator.count(begin + population * (start - 1))
        for generation in range(start, generations + 1):
            key_ask, key_tell = jax.random.split(jax.random.fold_in(root, generation))
            if state is None:
                children = uniform_population(key_ask, population, genes, low=WIDTHS[0], high=WIDTHS[-1])
                if surrogate is not None:
                    seeds, _ = first_population(
                        surrogate, evaluator.errors, evaluator.hardware, rehearsed=rehearsed, count=population
                    )
                    children = np.concatenate([seeds, children[len(WIDTHS) :][: max(0, population - len(seeds))]])
                fitness = evaluator(children)
                state = algorithm.init(key_tell, children, fitness, params)
            else:
                with evaluator.timed("nsga2"):
                    children, state = algorithm.ask(key_ask, state, params)
                fitness = evaluator(children)
                with evaluator.timed("nsga2"):
                    state, _ = algorithm.tell(key_tell, children, fitness, state, params)
            with evaluator.timed("checkpoints"):
                run.record(generation, children, fitness, state, evaluator.seconds)
            evaluator.count(begin + population * generation)
    return run.result(tuple(objectives), wiring, evaluator.seconds)


def evaluations(population: int, generations: int, surrogate: Surrogate | None = None) -> int:
    """How many assignments `search` evaluates at most."""
    begin = population if surrogate is None else len(WIDTHS) + ROUNDS * population
    return begin + population * generations


def check_options(objectives: Sequence[str], population: int, generations: int, map_by: str | None = None) -> None:
    """Raise `InputError` for options that `search` cannot serve."""
    for objective in objectives:
        objective_of(objective)
    mapping_metric(objectives, map_by)
    if len(objectives) < 2 or len(set(objectives)) < len(objectives):
        raise InputError(f"a search needs at least two different objectives, not {','.join(objectives)!r}")
    if population < 8 or population % 2:
        raise InputError(f"the population must be even and at least 8, not {population}")
    if generations < 0:
        raise InputError(f"the number of generations must not be negative, but is {generations}")


class _Evaluator:
    """Objectives of flat genomes; every accuracy is computed once, also across runs."""

    def __init__(
        self,
        table: CostTable,
        accuracy: Accuracy | None,
        objectives: tuple[str, ...],
        cache: Path | None,
        wiring: Wiring,
        map_by: str | None,
        progress: Progress,
    ) -> None:
        self.wiring, self.map_by = wiring, map_by
        self.table, self.accuracy, self.objectives = table, accuracy, objectives
        self.seconds: dict[str, float] = {"accuracy": 0.0, "hardware": 0.0, "nsga2": 0.0, "checkpoints": 0.0}
        self._progress, self._counted = progress, 0
        if accuracy is not None:
            path = None if cache is None else Path(cache) / "accuracy" / f"{accuracy.cache_key}.csv"
            self.known = AppendedTable(path)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the duration of the block to `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    def count(self, assignments: int) -> None:
        """Tell that so many assignments are done since the beginning; those that were known already come along at once."""
        self._progress.advance(assignments - self._counted)
        self._counted = assignments

    def __call__(self, flat: np.ndarray) -> np.ndarray:
        """Fitness float64 [N, K] of genomes int [N, T + L]."""
        costs = iter(self.hardware(flat).T)
        return np.stack([self.errors(flat) if name == "error" else next(costs) for name in self.objectives], axis=1)

    def hardware(self, flat: np.ndarray) -> np.ndarray:
        """The objectives other than the error, in their order, float64 [N, K - 1] of genomes int [N, T + L]."""
        names = [name for name in self.objectives if name != "error"]
        with self.timed("hardware"):
            return network_cost(self.table, flat, names, wiring=self.wiring, map_by=self.map_by)

    def errors(self, flat: np.ndarray) -> np.ndarray:
        """Error float64 [N] of genomes int [N, T + L]."""
        with self.timed("accuracy"):
            return 1.0 - self._accuracies(self.wiring.shaped(flat))

    def _accuracies(self, genomes: np.ndarray) -> np.ndarray:
        assert self.accuracy is not None
        keys = ["".join(map(str, genome.ravel())) for genome in genomes]
        unknown = {key: row for row, key in enumerate(keys) if self.known.get(key) is None}
        asked, size = list(unknown.items()), getattr(self.accuracy, "at_once", 1)
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            values = self.accuracy(genomes[[row for _, row in part]])
            for (key, _), value in zip(part, values, strict=True):
                self.known.add(key, float(value))  # at once, for runs that are killed or that go on beside this one
            self.count(self._counted + len(part))
        return np.array([self.known.get(key) for key in keys])


class _Run:
    """What a search has evaluated so far, in memory and, after every generation, in checkpoints."""

    def __init__(self, folder: Path | None, genes: int, objectives: int) -> None:
        self._manager = None if folder is None else open_manager(folder)
        self.genomes = np.zeros((0, genes), np.int8)
        self.objectives = np.zeros((0, objectives))
        self.generation = np.zeros(0, np.int32)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()

    def restore(self, seconds: dict[str, float]) -> tuple[State | None, int]:
        """The state after the last generation that was saved whole, and the number of the next one."""
        found = None if self._manager is None else restore_latest(self._manager, ocp.args.PyTreeRestore())
        if found is None:
            return None, 0
        generation, saved = found
        self.genomes, self.objectives = saved["genomes"], saved["objectives"]
        self.generation = saved["generation"]
        seconds.update({name: float(value) for name, value in saved["seconds"].items()})
        state = saved["state"]
        scalars = {name: state.pop(name).item() for name in ("best_fitness", "generation_counter")}
        return State(**state, **scalars), generation + 1

    def record(
        self, generation: int, children: np.ndarray, fitness: np.ndarray, state: State, seconds: dict[str, float]
    ) -> None:
        """Add an evaluated generation, and checkpoint."""
        self.genomes = np.concatenate([self.genomes, children.astype(np.int8)])
        self.objectives = np.concatenate([self.objectives, fitness])
        self.generation = np.concatenate([self.generation, np.full(len(children), generation, np.int32)])
        if self._manager is None:
            return
        arrays = {
            "genomes": self.genomes,
            "objectives": self.objectives,
            "generation": self.generation,
            "seconds": {name: np.float64(value) for name, value in seconds.items()},
            "state": {name: np.asarray(value) for name, value in dataclasses.asdict(state).items()},
        }
        self._manager.save(generation, args=ocp.args.PyTreeSave(arrays))

    def result(self, names: tuple[str, ...], wiring: Wiring, seconds: dict[str, float]) -> SearchResult:
        """Everything evaluated, with the front over all of it."""
        first = np.unique(self.genomes, axis=0, return_index=True)[1]
        kept = first[np.isfinite(self.objectives[first]).all(axis=1)]
        front = kept[pareto_front(self.objectives[kept])]
        # Of assignments that cost the same in every objective, the one found first is shown.
        front = np.sort(front)
        front = front[np.sort(np.unique(self.objectives[front], axis=0, return_index=True)[1])]
        front = front[np.lexsort(self.objectives[front].T[::-1])]
        if not len(front):
            raise InputError("no assignment that was evaluated fits the accelerator: some layer has no valid mapping")
        genomes = wiring.shaped(self.genomes)
        return SearchResult(names, genomes, self.objectives, self.generation, front, dict(seconds))
