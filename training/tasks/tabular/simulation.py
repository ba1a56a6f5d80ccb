"""`training simulate-table`: a made-up passenger table with the lesson's columns and a known truth.

Nobody in it has lived. The probability of surviving is `probability_of` a row as it is written in the table, so the best accuracy
that any model can have is known: column `SurvivalProbability` holds it.
"""

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import UserError
from training.files import write_text

COLUMNS = ("PassengerId", "Survived", "Pclass", "Name", "Sex", "Age", "SibSp", "Parch", "Ticket", "Fare", "Cabin", "Embarked")
PROBABILITY = "SurvivalProbability"
"""Column with the true probability of surviving."""
N_ROWS, SEED = 891, 42
LEAST_ROWS, MOST_ROWS = 10, 10_000_000
AGE_MISSING_FRACTION = 0.2
EMBARKED_MISSING_FRACTION = 0.003

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Passengers:
    """Columns that the truth depends on, and those that only look like something.

    Shape: (rows,) each.
    """

    pclass: npt.NDArray[np.int64]
    is_female: npt.NDArray[np.bool_]
    age: Float64Array
    """NaN where it is not known."""
    sibsp: npt.NDArray[np.int64]
    parch: npt.NDArray[np.int64]
    fare: Float64Array
    embarked: npt.NDArray[np.str_]


def probability_of(passengers: Passengers) -> Float64Array:
    """The true probability of surviving, a function of what is written in the table.

        logit = -1.6 + 4 female - 0.9 (class - 2) - 1.8 female (class is 3) - 0.05 (age - 30) - 0.4 siblings

    An age that is not known has no effect; nor have parents, fare and port.
    """
    female = passengers.is_female.astype(np.float64)
    age = np.where(np.isnan(passengers.age), 0.0, passengers.age - 30)
    logit = (
        -1.6
        + 4.0 * female
        - 0.9 * (passengers.pclass - 2)
        - 1.8 * female * (passengers.pclass == 3)
        - 0.05 * age
        - 0.4 * passengers.sibsp
    )
    return np.asarray(1 / (1 + np.exp(-logit)))


def best_accuracy(probability: Float64Array) -> float:
    """Expected accuracy of the best possible rule on rows with these probabilities of class 1 (the Bayes accuracy)."""
    return float(np.maximum(probability, 1 - probability).mean())


def draw_passengers(n_rows: int, seed: int) -> Passengers:
    """Draw rows. Only uniform numbers are drawn, so that a seed means the same with every version of NumPy."""
    uniform = np.random.Generator(np.random.PCG64(seed)).random((n_rows, 9))
    pclass = 1 + np.searchsorted([0.24, 0.45], uniform[:, 0], side="right")
    is_female = uniform[:, 1] < 0.36
    age = np.asarray(np.round(np.clip(30 + 14 * (uniform[:, 2] + uniform[:, 3] + uniform[:, 4] - 1.5) * 2, 1, 80)), np.float64)
    age[uniform[:, 5] < AGE_MISSING_FRACTION] = np.nan
    sibsp = np.searchsorted([0.68, 0.91, 0.95, 0.98], uniform[:, 6], side="right")
    parch = np.searchsorted([0.76, 0.89, 0.98], uniform[:, 7], side="right")
    fare = np.round((70 / pclass**1.5) * (0.5 + uniform[:, 2] + uniform[:, 7]), 2)
    limits = EMBARKED_MISSING_FRACTION + np.array([0.0, 0.19, 0.28])
    embarked = np.array(["", "C", "Q", "S"])[np.searchsorted(limits, uniform[:, 8], side="right")]
    return Passengers(pclass, is_female, age, sibsp, parch, fare, embarked)


def simulate_table(output: Path, n_rows: int = N_ROWS, seed: int = SEED) -> float:
    """Write a made-up table.

    Returns: the accuracy of the best possible rule on these rows, on average over the chance in their labels.
    Raises: UserError if `output` exists, or for a number of rows or a seed that cannot be.
    """
    if not LEAST_ROWS <= n_rows <= MOST_ROWS:
        raise UserError(f"--rows {n_rows} (accepted: {LEAST_ROWS} to {MOST_ROWS:,})")
    if seed < 0:
        raise UserError(f"--seed {seed} (accepted: 0 or more)")
    if output.exists():
        raise UserError(f"{output}: exists already (accepted: another name, or remove it)")
    passengers = draw_passengers(n_rows, seed)
    probability = np.round(probability_of(passengers), 6)
    survived = np.random.Generator(np.random.PCG64([seed, 1])).random(n_rows) < probability
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, _text(passengers, probability, survived))
    return best_accuracy(probability)


def _text(passengers: Passengers, probability: Float64Array, survived: npt.NDArray[np.bool_]) -> str:
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, PROBABILITY])
    for i in range(len(survived)):
        age = "" if np.isnan(passengers.age[i]) else f"{passengers.age[i]:g}"
        person = (f"Passenger, No. {i + 1}", "female" if passengers.is_female[i] else "male", age)
        family = (passengers.sibsp[i], passengers.parch[i])
        journey = (f"T{i + 1}", f"{passengers.fare[i]:.2f}", "", passengers.embarked[i])
        rows.writerow([i + 1, int(survived[i]), passengers.pclass[i], *person, *family, *journey, f"{probability[i]:.6f}"])
    return text.getvalue()
