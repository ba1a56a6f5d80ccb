"""The gene network behind simulated cells, and what each condition is expected to show.

A perturbed gene acts on the modules that it regulates; modules act on one another until a steady state, and on their genes:

    activity = (I - M_t)^-1 r_p               M_t: sparse signed network of modules in cell type t, r_p: what p regulates
    log rate = baseline_t + gem_group + programs + systematic + saturated(gain_c knockdown_c activity @ loadings)

This is the low-rank form of a gene network's steady state (I - W)^-1 u, with W = regulators x M x loadings, so that it is exact
and cheap at 18,080 genes. `simulation.py` draws counts from it.

Letters in `Shape:` sections: N cells, G genes, T cell types, P perturbations, K modules, F width of the features. Code 0 of a
perturbation is the control, so tables of conditions have P + 1 rows.

Source: Aguirre et al., PLoS Comput Biol 2025 (modular, sparse, hub-rich networks); Mejia et al., arXiv 2506.22641, and Systema, Nat
Biotechnol 2025 (the shift that all perturbed cells share).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri
from scipy.stats import qmc

from training.cells import FloatArray, IntArray
from training.data.simulation_settings import Simulation

Float64Array = npt.NDArray[np.float64]

TARGET_SUM = 1e4
"""Library size to which counts are normalised before log1p."""
LEVELS: Float64Array = np.geomspace(0.3, 20, 16)
"""Inverse dispersions that genes may have: few, so that expectations can be tabulated."""

_ESCAPERS = 0.15  # share of perturbed cells whose guide does nothing; 10-20 % in CRISPRi screens
_SATURATION = 1.5  # largest response of a gene to its modules, natural log
_LIBRARY = 10_000  # median counts of a cell
_LIBRARY_SPREAD = 0.35  # standard deviation of the log library size; 0.3-0.5 in 10x data
_EFFECT = 0.6  # median strength of a perturbation; a guess, tuned so that the default screen can be learned
_LOG_SHARES = np.linspace(-25, 0, 501)  # grid of expectations: log of a gene's share of the library


@dataclass(frozen=True)
class Labels:
    """What was done to each cell, as codes."""

    cell_type: IntArray
    """(N,)"""
    perturbation: IntArray
    """(N,), 0 is the control"""
    gem_group: IntArray
    """(N,)"""

    def __getitem__(self, rows: slice) -> "Labels":
        return Labels(self.cell_type[rows], self.perturbation[rows], self.gem_group[rows])


@dataclass(frozen=True)
class States:
    """How each cell was when it was perturbed, and how it is measured."""

    programs: FloatArray
    """(N, 2) activity of two programs that every cell runs; the second has two modes: sub-clusters"""
    knockdown: FloatArray
    """(N,) share of the target's expression that is lost; 0 in controls and in cells that escape"""
    library: FloatArray
    """(N,) expected counts"""


@dataclass(frozen=True)
class Network:
    """Parameters that all cells share."""

    baseline: FloatArray
    """(T, G) log rates of an undisturbed cell"""
    gem_group_shift: FloatArray
    """(gem groups, G) on the log rates"""
    gem_group_library: FloatArray
    """(gem groups,) median library size"""
    gem_group_share: Float64Array
    """(P + 1, gem groups) how the cells of a perturbation are spread; controls evenly"""
    program_loadings: FloatArray
    """(2, G)"""
    systematic: FloatArray
    """(G,)"""
    loadings: FloatArray
    """(K, G) how genes respond to modules"""
    activity: FloatArray
    """(T, P + 1, K) steady state; zeros for the control and where a cell type does not express the target"""
    target: IntArray
    """(P,) genes that are perturbed"""
    level: IntArray
    """(G,) index into `LEVELS`"""
    features: FloatArray
    """(P, F)"""
    state_dependence: float


@dataclass(frozen=True)
class Truth:
    """What a perfect predictor would say of each condition, at an even mixture of GEM groups.

    Units: log1p of counts normalised to 10,000 a cell.
    """

    control_mean: FloatArray
    """(T, G) expected controls"""
    shift: FloatArray
    """(T, P, G) expected perturbed cells less expected controls"""


def draw_network(settings: Simulation) -> Network:
    """The network of these settings."""
    rng = settings.rng(0)
    genes, types, modules = settings.n_genes, settings.n_cell_types, settings.n_modules
    abundance = rng.normal(0, 1.5, genes)  # a cell shows some 4,500 of 18,080 genes
    offset = rng.normal(0, 0.7, (types, genes)) * (rng.random((types, genes)) < 0.3)
    silent = rng.random((types, genes)) < 0.05
    # Screens choose targets that are expressed: half of the genes are eligible.
    target = rng.choice(np.argsort(-abundance)[: genes // 2], settings.n_perturbations, replace=False)
    regulated = _regulated_modules(rng, settings)
    activity = np.zeros((types, settings.n_perturbations + 1, modules))
    for cell_type, links in enumerate(_module_networks(rng, settings)):
        steady = np.linalg.solve(np.eye(modules) - links, regulated.T).T
        activity[cell_type, 1:] = steady * ~silent[cell_type, target, None]
    dispersion = np.log(2) + 0.4 * abundance + rng.normal(0, 0.3, genes)  # rarer genes vary more
    groups = settings.n_gem_groups
    batch_effect = 0.1 * (groups > 1)
    share = np.vstack([np.full((1, groups), 1 / groups), rng.dirichlet(np.full(groups, 5.0), settings.n_perturbations)])
    return Network(
        baseline=(abundance + offset - 5.0 * silent).astype(np.float32),
        gem_group_shift=rng.normal(0, batch_effect, (groups, genes)).astype(np.float32),
        gem_group_library=(_LIBRARY * np.exp(rng.normal(0, 2 * batch_effect, groups))).astype(np.float32),
        gem_group_share=share,
        program_loadings=(rng.normal(0, 0.5, (2, genes)) * (rng.random((2, genes)) < 0.2)).astype(np.float32),
        systematic=rng.normal(0, settings.systematic_shift, genes).astype(np.float32),
        loadings=_loadings(rng, settings),
        activity=activity.astype(np.float32),
        target=target,
        level=np.abs(np.log(LEVELS) - dispersion[:, None]).argmin(1),
        features=_features(regulated, settings),
        state_dependence=settings.state_dependence,
    )


def _loadings(rng: np.random.Generator, settings: Simulation) -> FloatArray:
    """Each gene answers to one module, some to a second, and a fifth to none.

    Shape: (K, G).
    """
    genes, modules = settings.n_genes, settings.n_modules
    loadings = np.zeros((modules, genes))
    loadings[rng.integers(modules, size=genes), np.arange(genes)] = rng.normal(0, 1, genes) * (rng.random(genes) < 0.8)
    loadings += rng.normal(0, 0.5, (modules, genes)) * (rng.random((modules, genes)) < 0.3 / modules)
    return loadings.astype(np.float32)


def _regulated_modules(rng: np.random.Generator, settings: Simulation) -> Float64Array:
    """Which modules each target regulates, how, and how strongly: few of them strongly, most weakly.

    Shape: (P, K).
    """
    shape = (settings.n_perturbations, settings.n_modules)
    # Heavy-tailed out-degree: most targets regulate one to three modules, hubs many.
    degree = np.minimum(rng.zipf(1.8, shape[0]), shape[1])
    rank = rng.random(shape).argsort(1).argsort(1)
    direction = rng.normal(0, 1, shape) * (rank < degree[:, None])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    strength = _EFFECT * np.sqrt(shape[1]) * rng.lognormal(0, 0.5, shape[0])
    regulated: Float64Array = direction * strength[:, None]
    return regulated


def _module_networks(rng: np.random.Generator, settings: Simulation) -> list[Float64Array]:
    """Links between modules in each cell type: a fifth of a shared network's links is missing in each.

    Shape: T of (K, K).
    """
    modules = settings.n_modules
    shared = rng.normal(0, 1, (modules, modules)) * (rng.random((modules, modules)) < 3 / modules)
    # The steady state exists if the spectral radius is below 1; the Frobenius norm bounds it, whichever links are missing.
    shared *= 0.9 / np.linalg.norm(shared)
    return [shared * (rng.random((modules, modules)) < 0.8) for _ in range(settings.n_cell_types)]


def _features(regulated: Float64Array, settings: Simulation) -> FloatArray:
    """Vectors that tell, as far as `informativeness` goes, what a target regulates: linear in it, unit variance.

    Shape: (P, K) -> (P, F).
    """
    rng = settings.rng(1)
    signal = regulated @ rng.normal(0, 1, (settings.n_modules, settings.feature_dim))
    signal /= signal.std()
    noise = rng.normal(0, 1, signal.shape)
    known = settings.informativeness
    features: FloatArray = (np.sqrt(known) * signal + np.sqrt(1 - known) * noise).astype(np.float32)
    return features


def states_from_uniforms(network: Network, labels: Labels, uniforms: Float64Array) -> States:
    """States at the quantiles that `uniforms` name: random ones to simulate cells, evenly spread ones to integrate over them.

    Shape: labels (N,), uniforms (N, 5) -> N states.
    """
    cycle, mode, within_mode, knockdown, library = np.clip(uniforms, 1e-6, 1 - 1e-6).T
    stress = np.where(mode < 0.5, -1, 1) + 0.3 * ndtri(within_mode)
    lost = betaincinv(8, 2, np.clip((knockdown - _ESCAPERS) / (1 - _ESCAPERS), 0, 1))
    return States(
        programs=np.column_stack([ndtri(cycle), stress]).astype(np.float32),
        knockdown=np.where(labels.perturbation > 0, lost, 0).astype(np.float32),
        library=(network.gem_group_library[labels.gem_group] * np.exp(_LIBRARY_SPREAD * ndtri(library))).astype(np.float32),
    )


def library_shares(network: Network, labels: Labels, states: States) -> FloatArray:
    """Each gene's expected share of a cell's counts.

    Shape: N cells -> (N, G), rows sum to 1.
    """
    gain = 2 / (1 + np.exp(-network.state_dependence * states.programs[:, 0]))  # 1 on average
    activity = network.activity[labels.cell_type, labels.perturbation] * (gain * states.knockdown)[:, None]
    rates = activity @ network.loadings / np.float32(_SATURATION)
    np.tanh(rates, out=rates)
    rates *= np.float32(_SATURATION)
    rates += network.baseline[labels.cell_type]
    rates += network.gem_group_shift[labels.gem_group]
    rates += states.programs @ network.program_loadings
    (treated,) = np.nonzero(labels.perturbation)
    rates[treated] += network.systematic
    rates[treated, network.target[labels.perturbation[treated] - 1]] += np.log1p(-states.knockdown[treated])
    np.exp(rates, out=rates)
    rates /= rates.sum(1, keepdims=True)
    shares: FloatArray = rates
    return shares


def expected_truth(network: Network, num_states: int = 64) -> Truth:
    """Expectations over `num_states` evenly spread states, the same for every condition.

    With 64 states the error of a shift is about 1 % of its length (against 1,024 states). Cost at 18,080 genes: 40 ms a condition.
    """
    n_types, n_conditions, _ = network.activity.shape
    table = _expected_log1p(network.gem_group_library)[network.level]
    uniforms = qmc.Sobol(5, rng=np.random.default_rng(0)).random(num_states)
    gem_group = np.arange(num_states) % len(network.gem_group_library)
    mean = np.empty((n_types, n_conditions, len(network.level)), np.float32)
    for cell_type, perturbation in np.ndindex(n_types, n_conditions):
        labels = Labels(np.full(num_states, cell_type), np.full(num_states, perturbation), gem_group)
        shares = library_shares(network, labels, states_from_uniforms(network, labels, uniforms))
        mean[cell_type, perturbation] = _interpolated(table, np.log(shares)).mean(0)
    return Truth(control_mean=mean[:, 0], shift=mean[:, 1:] - mean[:, :1])


def _interpolated(table: FloatArray, log_shares: FloatArray) -> FloatArray:
    """Rows of `table` at `log_shares`, linear between the nodes of the grid.

    Shape: (G, nodes), (N, G) -> (N, G).
    """
    position = (np.clip(log_shares, _LOG_SHARES[0], -1e-6) - _LOG_SHARES[0]) / (_LOG_SHARES[1] - _LOG_SHARES[0])
    node = position.astype(np.int64)
    weight = position - node
    genes = np.arange(len(table))
    interpolated: FloatArray = table[genes, node] * (1 - weight) + table[genes, node + 1] * weight
    return interpolated


def _expected_log1p(gem_group_library: FloatArray) -> FloatArray:
    """E log(1 + s X) of a negative binomial count X, s = 10,000 / library, over all libraries: a row per level, a column per share.

    Exact but for the quadratures: log(1 + y) is the integral of (1 - exp(-t y)) exp(-t) / t over t > 0, and E exp(-u X) =
    (1 + mean / theta (1 - exp(-u)))^-theta. With t = exp(x) the trapezoidal rule on 60 nodes is good to 1e-4.

    Shape: (gem groups,) -> (levels, nodes).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    libraries = (gem_group_library[:, None] * np.exp(_LIBRARY_SPREAD * nodes)).ravel()
    weights = np.tile(weights / weights.sum() / len(gem_group_library), len(gem_group_library))
    x = np.linspace(-16, 4, 60)
    theta = LEVELS[:, None, None]
    expected = np.zeros((len(LEVELS), len(_LOG_SHARES)))
    for library, weight in zip(libraries, weights, strict=True):
        mean = (library * np.exp(_LOG_SHARES))[:, None]
        laplace = -np.expm1(-theta * np.log1p(mean / theta * -np.expm1(-np.exp(x) * TARGET_SUM / library)))
        expected += weight * (x[1] - x[0]) * (laplace * np.exp(-np.exp(x))).sum(2)
    return expected.astype(np.float32)
