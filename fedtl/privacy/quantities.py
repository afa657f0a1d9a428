"""
Every quantity that a private update can depend on besides its noisy sums: where it comes from, and why that is safe.

``docs/privacy-quantities.md`` is this table: ``python -m fedtl.privacy.quantities > docs/privacy-quantities.md``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """``origin``: where the value comes from. ``safe``: why one record cannot tell anything through it, or what is not covered."""

    name: str
    origin: str
    safe: str


NO_ROW = "no row is looked at"
FOLLOWS = "follows from n and from settings; n is public"

QUANTITIES = (
    Quantity(
        "number of units n",
        "counted in the training part of the split",
        "public by declaration: adjacency is zero-out, in which one unit is replaced by nothing and n stays",
    ),
    Quantity("sample rate", "privacy.sample_rate, or train.batch_size over n", FOLLOWS),
    Quantity(
        "steps",
        "privacy.steps, or train.epochs, train.batch_size and n; fixed before the first round",
        FOLLOWS,
    ),
    Quantity("delta", "privacy.delta, or min(1e-5, 1/(10 n))", FOLLOWS),
    Quantity("noise multipliers", "calibrated from epsilon, delta, sample rate, steps and rounds", FOLLOWS),
    Quantity("clip", "privacy.clip", NO_ROW),
    Quantity(
        "class list",
        "data.classes, the source's own list (digits), or the agreement on a shared head",
        "declared; a list learned from rows is refused; a record whose label is not declared trains nothing, and no other "
        "record changes",
    ),
    Quantity(
        "columns and categories",
        "the header of the file, data.columns, data.categories",
        "declared; each cell is read by itself, so no cell decides how another is read; a cell that cannot be read is missing, "
        "and a category that is not declared is none",
    ),
    Quantity(
        "input shape",
        "data.size and data.channels, the shape of an array, the agreement; in a folder of images both must be set",
        "declared, or the form of a file that one record cannot change; a shape learned from image files is refused",
    ),
    Quantity(
        "scale of the inputs",
        'a file of constants (data.scale), data.bounds, or none for data.scale = "none" and for pixels',
        "declared; fill value, mean and spread learned from rows are refused for every source",
    ),
    Quantity(
        "scale of the labels",
        "regression: the label's entry in the file of constants or in data.bounds",
        "declared; mean and spread learned from rows are refused",
    ),
    Quantity(
        "released scale of the inputs",
        'data.scale = "dp": mean and spread of the inputs within data.bounds, by DP-AdaBN',
        "released with noise and charged as part of one event before the first round; within the event each record's vector is "
        "clipped",
    ),
    Quantity(
        "split and limit",
        "a permutation of positions (of the sorted units with a unit column), from seed and the silo's name",
        "no label, value or size of a unit is looked at, so one record never moves another; a split by the rows' contents is "
        "refused (data.target_domain of a table)",
    ),
    Quantity(
        "silo of each row",
        "the file, or data.silo_column",
        "public by declaration: a silo's guarantee is about its own rows",
    ),
    Quantity(
        "unit of each row",
        "data.unit_column",
        "public by declaration: which units there are; how many rows a unit has changes that unit alone. A row that does not say "
        "its unit stops the silo before its first round",
    ),
    Quantity(
        "validation rows",
        "the split",
        "their number is public; what they hold leaves only as a noisy accuracy (privacy.metrics), charged each round",
    ),
    Quantity("weight of the update", "1 for every private silo", NO_ROW),
    Quantity(
        "seeds",
        "seed of the experiment and the silo's secret: the split, dropout",
        f"{NO_ROW}; noise and samples come from the operating system",
    ),
    Quantity(
        "first weights",
        "the model's name and seed, model.weights, or model.pretrain_on",
        "public: a file with a tensor labelled local-only is refused; that a file without labels, or the rows of pretrain_on, are "
        "public is declared",
    ),
    Quantity(
        "first statistics of norms",
        "what the first weights make of synthetic rows, or the first weights' file",
        NO_ROW,
    ),
    Quantity(
        "received tensors",
        "the server: averages of private updates",
        "what was released before with noise may be used again",
    ),
    Quantity(
        "local tensors by role",
        "head, norms and statistics at the silo after earlier private rounds",
        "each role carries a label; a round that would start from a tensor without a label, or from one labelled local-only, is "
        "refused",
    ),
    Quantity(
        "method and optimiser",
        "[method], [train], model.freeze; the optimiser is new in each round",
        f"settings: {NO_ROW}. If they were tuned on private rows, privacy.tuning has to say so",
    ),
    Quantity(
        "constants of DP-AdaBN",
        "radii, bound, kappa and the limits of a change stand in the code (privacy/statistics.py)",
        f"{NO_ROW}; shrinkage is computed from the noisy sum",
    ),
    Quantity(
        "way of taking gradients",
        "tried on synthetic rows before the first round",
        f"{NO_ROW}; how many rows are computed at once is a constant",
    ),
    Quantity("canaries", "audit.canaries: synthetic records beside the model", NO_ROW),
    Quantity(
        "whether the silo answers",
        "damaged files, rows without a unit, a spent budget, training that diverges, and the time that it takes",
        "not covered: the server learns that a silo did not answer, or answered late, and nothing else",
    ),
)


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# What a private update can depend on",
        "",
        "Made from `fedtl/privacy/quantities.py`; a test compares the two, and walks the table with neighbouring data sets",
        "(`tests/privacy/test_quantities.py`). Under `[privacy]` an update consists of noisy sums. Everything else that it depends on:",
        "",
        "| quantity | where it comes from | why that is safe |",
        "|---|---|---|",
        *(f"| {one.name} | {one.origin} | {one.safe} |" for one in QUANTITIES),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
