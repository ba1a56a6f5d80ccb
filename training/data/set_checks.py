"""Before a run: refused where next to nothing would be trained or validated on, warned of where much is left aside."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from training.cells import Split
from training.config import CellSetsConfig
from training.data.sets import Groups, cut
from training.data.table import SPLITS, CellTable
from training.errors import UserError
from training.text import some

log = logging.getLogger(__name__)

FEWEST_IN_SETS = 0.1
"""Share of the perturbed training cells in sets below which a run is refused. With m cells a condition and GEM group on average,
1 - exp(-m) of the cells share theirs with another (Poisson): at a tenth there is one cell in ten GEM groups, nearly every set is a
pair, whose energy distance is mostly its own noise (`sets.SHORTEST_SHARE`), and nine cells of ten were measured for nothing."""
FEW_IN_SETS = 0.5
"""Share below which a run is warned of: most of the perturbed cells have no part in it."""


def check_training_sets(table: CellTable, groups: Groups, config: CellSetsConfig, set_size: int) -> None:
    """Refuse training cells that make no sets, next to none of perturbed cells, or none of full size.

    Raises: UserError naming the split file, the numbers, the cause and what to do.
    """
    is_perturbed = ~table.is_control[groups.first]
    if not groups.gives_sets.any() and not is_perturbed.any():
        alone = f" but {len(groups.cells)} controls that share no set" if len(groups.cells) else ""
        raise UserError(f"{config.split}: no cell is left to train on{alone}; name a data set in [training] or hold out less")
    n_cells, n_in_sets = _perturbed_in_sets(table, groups)
    if n_in_sets < FEWEST_IN_SETS * n_cells:
        raise UserError(f"{config.split}: {_too_few(table, groups, config)} (accepted: {FEWEST_IN_SETS:.0%} or more)")
    largest = int(groups.sizes.argmax())
    if (size := int(groups.sizes[largest])) < set_size:
        raise UserError(
            f"{config.split}: set_size {set_size} is larger than every group of training cells; the largest, "
            f"{table.condition(groups.first[largest])}, has {size} (accepted: 2 to {size})"
        )


def check_validation_sets(table: CellTable, groups: Mapping[Split, Groups], split: Split, config: CellSetsConfig) -> None:
    """Refuse a split that is to validate and has no cells, or none that share a set.

    Raises: UserError naming the split file, the perturbations and their cells, and what to do.
    """
    validating = groups[split]
    if validating.gives_sets.any():
        return
    if not len(validating.cells):
        have = ", ".join(f"{name}: {int(table.is_in(name).sum())} cells" for name in SPLITS)
        what, mend = f"no cell is in {split} ({have})", ["hold some out"]
    else:
        conditions, where, of_group = np.unique(validating.condition, return_index=True, return_inverse=True)
        n_cells = np.bincount(of_group, weights=validating.sizes, minlength=len(conditions))
        named = some(f"{table.condition(validating.first[i])}: {int(n)}" for i, n in zip(where, n_cells, strict=True))
        makes = "1 cell in {} makes" if len(validating.cells) == 1 else f"{len(validating.cells)} cells in {{}} make"
        what = f"the {makes.format(split)} no set ({named}), for no two of a perturbation share their {_place(config)}"
        mend = ["hold out perturbations with more cells"]
        if config.control_matching == "gem_group" and (n_cells > 1).any():
            mend = ["say data.control_matching: cell_type"]
    other: Split = "test" if split == "val" else "val"
    if groups[other].gives_sets.any():
        mend.append("say data.validation: " + ("test (then the test is no longer held out)" if other == "test" else "split"))
    mend.append("say data.validation: none (and leave out trainer.val_every_steps and data.max_validation_sets)")
    raise UserError(f"{config.split}: {what}, but data.validation is {config.validation}; {', or '.join(mend)}")


def warn_of_sets(table: CellTable, groups: Sequence[Groups], config: CellSetsConfig, set_size: int) -> None:
    """Say, in a line each, that most perturbed training cells are in no set, and where sets have more cells than controls.

    Args:
        table: All cells of the three splits.
        groups: Those that are trained on, behind them those that validate.
        config: Of the data.
        set_size: Cells in a full set.
    """
    n_cells, n_in_sets = _perturbed_in_sets(table, groups[0])
    if n_in_sets < FEW_IN_SETS * n_cells:
        log.warning("%s: %s", config.split, _too_few(table, groups[0], config))
    if repeating := _few_controls(table, groups, config, set_size):
        log.warning("cell types with fewer controls than cells in a set, whose controls repeat within it: %s", some(repeating))


def _perturbed_in_sets(table: CellTable, groups: Groups) -> tuple[int, int]:
    """Perturbed cells, and those of them that are in sets."""
    of_perturbed = groups.sizes * ~table.is_control[groups.first]
    return int(of_perturbed.sum()), int(of_perturbed[groups.gives_sets].sum())


def _too_few(table: CellTable, groups: Groups, config: CellSetsConfig) -> str:
    n_cells, n_in_sets = _perturbed_in_sets(table, groups)
    if config.control_matching == "gem_group":
        is_perturbed = ~table.is_control[groups.first]
        _, of_group = np.unique(groups.condition[is_perturbed], return_inverse=True)
        together = np.bincount(of_group, weights=groups.sizes[is_perturbed])
        n_mended = int(together[together > 1].sum())
    else:
        n_mended = 0
    if n_mended >= FEW_IN_SETS * n_cells:
        mend = f"data.control_matching: cell_type puts {n_mended} in sets"
    else:
        mend = f"data.perturbation_column ({config.perturbation_column}) must name the perturbations, each in two cells or more"
    alone = f"each of the others is the only cell of its perturbation in its {_place(config)}"
    return f"{n_in_sets} of {n_cells} perturbed training cells are in a set; {alone}; {mend}"


def _place(config: CellSetsConfig) -> str:
    """What the cells of a set share beside their perturbation."""
    return "GEM group (data.control_matching: gem_group)" if config.control_matching == "gem_group" else "cell type"


def _few_controls(table: CellTable, groups: Sequence[Groups], config: CellSetsConfig, set_size: int) -> list[str]:
    """Cell types in which a set is longer than the pool that its controls are drawn from, with the worst case of each."""
    pools: dict[str, set[int]] = {}
    worst: dict[str, tuple[int, int]] = {}
    for each in groups:
        sizes, of_group = np.unique(each.sizes, return_inverse=True)
        length = np.array([max(cut(int(size), set_size), default=0) for size in sizes], np.int64)[of_group]
        n_controls = np.array([len(pool) for pool in each.pools], np.int64)[each.pool_of]
        short = n_controls < length
        for cell_type in np.unique(each.cell_type[short]):
            here = np.flatnonzero(short & (each.cell_type == cell_type))
            group = here[np.argmin(n_controls[here] / length[here])]
            condition = table.condition(each.first[group])
            name, found = f"{condition.dataset}.{condition.cell_type}", (int(n_controls[group]), int(length[group]))
            pools.setdefault(name, set()).update(np.unique(each.pool_of[here]).tolist())
            worst[name] = min(worst.get(name, found), found, key=lambda pair: pair[0] / pair[1])
    if config.control_matching == "cell_type":
        return [f"{name} ({n} for sets of {length})" for name, (n, length) in sorted(worst.items())]
    return [
        f"{name} (in {len(pools[name])} GEM groups; at worst {n} for sets of {length})"
        for name, (n, length) in sorted(worst.items())
    ]
