"""Sentences that the page of a run and the page of a comparison share, most of them on the privacy guarantee."""

from fedtl.report.wording import format_delta, format_epsilon, not_covered
from fedtl.results.page_facts import Origin
from fedtl.results.privacy import PrivacyReport

NO_PRIVACY = "No differential privacy: the shared tensors can reveal information about a silo's rows."
NOT_PRIVATE = 'Not private: with privacy.noise = "reproducible" the noise can be computed again'
TEST_FIGURES = (
    "The test results on this page come from a simulation. The guarantee does not cover them: published, they would reveal "
    "information about the test rows."
)
STATISTICS = (
    "Normalisation statistics: a model that was trained or tuned at the silo is scored with the exact statistics of the "
    "silo's own training inputs, in every method. A model whose statistics are shared is scored with these; a separate table "
    "shows the score of the models after the last round with both. A private run computes exact statistics only after its last release, and only with "
    'privacy.statistics = "local-after".'
)


def origin_note(origin: Origin) -> str:
    """State how the result is repeated, and what made the page."""
    versions = ", ".join(f"{name} {text}" for name, text in origin.made_with.items())
    return f"To repeat it, run in this folder: {origin.repeat}. This page was made with {versions}."


def one_run_note(folder: str, private: bool) -> str:
    """State how the page of one run of a comparison is made, and what it shows that the page of the comparison does not."""
    if private:
        option, shown = "", "the epsilon of each silo by round"
    else:
        option = " --features"
        shown = (
            "confusions and calibration where one class is predicted, the features of test rows in two dimensions, and how far each "
            "silo's normalisation statistics are from the mean"
        )
    return f"Of one run, its own page shows {shown}. To make it, run in this folder: fedtl report {folder}{option}"


def run_guarantee(privacy: PrivacyReport | None) -> str:
    """State the privacy guarantee of one run; the numbers of each silo are in result.json."""
    if privacy is None:
        return NO_PRIVACY
    if not privacy.private:
        return f"{NOT_PRIVATE}; {_tuning(privacy)}."
    weakest = max((privacy.silos or {}).values(), key=lambda silo: silo.epsilon)
    return (
        f"Differential privacy for each {privacy.unit} ({privacy.adjacency}): at most epsilon = "
        f"{format_epsilon(weakest.epsilon)} at delta = {format_delta(weakest.delta)} in any silo ({format_epsilon(weakest.epsilon_replace_one)} for "
        f"replace-one adjacency), as its ledger records; {_tuning(privacy)}. {not_covered(privacy.unit)} {TEST_FIGURES}"
    )


def comparison_guarantee(privacy: PrivacyReport | None, folds: int = 1) -> str:
    """State the privacy guarantee of the runs of a comparison, each by itself; ``folds``: in how many runs a seed is done."""
    if privacy is None:
        return NO_PRIVACY
    if not privacy.private:
        return f"{NOT_PRIVATE}; {_tuning(privacy)}."
    return (
        f"Each run of a method that shares tensors guarantees epsilon = {privacy.epsilon:g} for each {privacy.unit} "
        f"({privacy.adjacency}); its result.json records what was spent. If several runs are released, their epsilons add "
        f"up. {_of_folds(folds, privacy.unit)}{not_covered(privacy.unit)} {TEST_FIGURES} The baselines (local, local ensemble, constant, probe, pooled) are never private; "
        f"{_tuning(privacy)}."
    )


def _of_folds(folds: int, unit: str) -> str:
    """State how often a unit is trained on where a seed has several runs."""
    if folds == 1:
        return ""
    return f"With folds, each {unit} is trained on in {folds - 1} of the {folds} runs of a seed. "


def _tuning(privacy: PrivacyReport) -> str:
    """Where the settings come from. Every page states it."""
    return f"tuning on private data: {privacy.tuning}"
