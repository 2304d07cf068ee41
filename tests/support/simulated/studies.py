"""Simulated studies with a known truth, many at once, for the coverage of intervals and the false alarms of tests.

A design has the number of levels of each factor, and how much the difference between two strategies varies with each
factor and with their interactions. The true difference is always 0. The standard deviation of the concepts is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stages.evaluation.crossed import estimate
from stages.evaluation.results import OWN, Results
from stages.evaluation.statistics import FACTORS, table_of

ORDER, SEED, CONCEPT, PROMPT, NOISE = range(FACTORS)
PICTURE = (ORDER, SEED, CONCEPT, PROMPT, NOISE)
Effects = Mapping[tuple[int, ...], float]  # the factors of an effect -> its standard deviation
TOY, PAPER = (1, 1, 10, 5, 4), (4, 2, 10, 5, 4)


@dataclass(frozen=True)
class Design:
    levels: tuple[int, ...]  # of orders, seeds, concepts, prompts, noises
    more: Effects = field(default_factory=dict)  # in addition to concepts and single pictures
    skewed: bool = False  # few concepts have a large effect, most a small one: exponential, not normal

    def effects(self) -> Effects:
        runs = {(ORDER, SEED, CONCEPT): 0.5} if self.levels[ORDER] * self.levels[SEED] > 1 else {}
        return {(CONCEPT,): 1.0, PICTURE: 1.0, **runs, **self.more}


DESIGNS = {
    "toy": Design(TOY),
    "paper": Design(PAPER),
    "seed": Design(PAPER, {(SEED,): 0.4}),
    "prompt": Design(TOY, {(PROMPT,): 0.5}),
    "noise": Design(TOY, {(NOISE,): 0.5}),
    "order": Design(PAPER, {(ORDER,): 0.4}),
}
STRESS = {  # more extreme than usual studies, for the full simulation
    "seed, large": Design(PAPER, {(SEED,): 0.8}),
    "order, large": Design(PAPER, {(ORDER,): 0.8}),
    "prompt, large": Design(TOY, {(PROMPT,): 1.0}),
    "noise, large": Design(TOY, {(NOISE,): 1.0}),
    "prompt and noise": Design(TOY, {(PROMPT,): 0.5, (NOISE,): 0.5}),
    "concept x prompt": Design(TOY, {(CONCEPT, PROMPT): 1.0, (CONCEPT, NOISE): 1.0}),
    "pictures only": Design(TOY, {(CONCEPT,): 0.0}),
    "prompt in the paper's": Design(PAPER, {(PROMPT,): 0.5}),
    "one noise": Design((1, 1, 10, 5, 1)),
    "five concepts": Design((1, 1, 5, 5, 4)),
    "skewed": Design(TOY, skewed=True),
    "skewed, in the paper's": Design(PAPER, skewed=True),
    "order x concept": Design(PAPER, {(CONCEPT,): 0.0, (ORDER, CONCEPT): 1.0}),
    "two orders, two noises": Design((2, 2, 10, 5, 2)),
}


def differences(design: Design, count: int, seed: int = 0) -> np.ndarray:
    """Cells of the difference of two strategies in `count` studies, [study, order, seed, concept, prompt, noise]."""
    rng = np.random.default_rng(seed)
    table = np.zeros((count, *design.levels))
    for factors, spread in design.effects().items():
        shape = [n if factor in factors else 1 for factor, n in enumerate(design.levels)]
        skewed = design.skewed and CONCEPT in factors and factors != PICTURE
        table += spread * (rng.exponential(size=(count, *shape)) - 1 if skewed else rng.normal(size=(count, *shape)))
    return table


def studies(design: Design, count: int, seed: int = 0) -> Results:
    """`count` strategies whose scores at the end are `differences`, as results: every order has its own sequence."""
    table = differences(design, count, seed)
    orders, seeds, tasks, prompts, noises = design.levels
    sequences = [np.random.default_rng([seed, order]).permutation(tasks) for order in range(orders)]
    concepts = np.repeat(sequences, seeds, 0)  # [run, task]
    values = np.zeros((count, orders * seeds, tasks + 1, tasks, prompts * noises))
    at_end = table.reshape(count, orders * seeds, tasks, prompts * noises)
    for run, order in enumerate(concepts):
        values[:, run, -1] = at_end[:, run, order]
    return results(values, concepts, orders, noises)


def forgotten(count: int, lost: float = 0.0, shared: float = 0.3, seed: int = 0) -> Results:
    """`count` strategies of which each concept is `lost` lower from the task after its own on; else scores differ from
    row to row by chance alone, single pictures by a standard deviation of 1.

    shared: standard deviation of what all pictures of a prompt, and of a noise, share by chance in each row.
    """
    rng = np.random.default_rng(seed)
    orders, seeds, tasks, prompts, noises = TOY
    pictures = rng.normal(size=(count, 1, tasks + 1, tasks, prompts, noises))
    pictures += shared * rng.normal(size=(count, 1, tasks + 1, tasks, prompts, 1))
    pictures += shared * rng.normal(size=(count, 1, tasks + 1, tasks, 1, noises))
    pictures += rng.normal(size=(count, 1, 1, tasks, 1, 1))  # some concepts are easier
    pictures -= lost * (np.arange(tasks + 1)[:, None] > np.arange(1, tasks + 1))[..., None, None]
    values = pictures.reshape(count, 1, tasks + 1, tasks, prompts * noises)
    return results(values, np.arange(tasks)[None], orders * seeds, noises)


def results(values: np.ndarray, concepts: np.ndarray, orders: int, noises: int) -> Results:
    """Results with these values, [strategy, run, T + 1, T, picture], by one metric `m`."""
    count, runs, _, tasks, pictures = values.shape
    return Results(
        domain="objects",
        strategies=tuple(f"s{k}" for k in range(count)),
        runs=tuple((str(o), s) for o in range(orders) for s in range(runs // orders)),
        names=tuple(f"c{k}" for k in range(tasks)),
        concepts=concepts,
        pictures=np.full(tasks, pictures),
        measured={"m": {OWN: values}},
        noises=noises,
    )


def alarms(simulated: Results, measure: str, confidence: float = 0.95) -> np.ndarray:
    """Whether the interval of each strategy's measure excludes the truth, 0, [strategy].

    Asserts that the test agrees.
    """
    intervals = estimate(table_of(simulated, "m", measure), FACTORS, confidence)
    outside = (intervals.low > 0) | (intervals.high < 0)
    assert ((intervals.p <= 1 - confidence) == outside).all()
    return outside


def percentile_bootstrap(table: np.ndarray, draws: int = 300, confidence: float = 0.95) -> np.ndarray:
    """The same by the percentile bootstrap, for comparison: seeds drawn within orders, pictures within concepts."""
    rng = np.random.default_rng(0)
    count, orders, seeds, concepts, *_ = table.shape
    cells = table.reshape(count, orders * seeds, concepts, -1)
    pictures = cells.shape[-1]
    means = np.empty((draws, count))
    for draw in range(draws):
        drawn = rng.multinomial(orders, np.full(orders, 1 / orders))
        runs = np.concatenate([rng.multinomial(n * seeds, np.full(seeds, 1 / seeds)) for n in drawn]) / (orders * seeds)
        which = rng.multinomial(concepts, np.full(concepts, 1 / concepts)) / concepts
        each = rng.multinomial(pictures, np.full(pictures, 1 / pictures), concepts) / pictures
        means[draw] = np.einsum("scrp,r,c,cp->s", cells.transpose(0, 2, 1, 3), runs, which, each, optimize=True)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], 0)
    return (low > 0) | (high < 0)
