"""
Every quantity that a private update can depend on besides its noisy sums: where it comes from, and why that is safe.

``docs/privacy-quantities.md`` is this table: ``python -m fedtl.privacy.quantities > docs/privacy-quantities.md``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """
    One row of the table. ``origin``: where the value comes from. ``safe``: why it reveals nothing about one record, or
    what is not covered.
    """

    name: str
    origin: str
    safe: str


NO_ROW = "no row is used"
FOLLOWS = "follows from n and from settings; n is public"

QUANTITIES = (
    Quantity(
        "number of units n",
        "counted in the training part of the split",
        "declared public: adjacency is zero-out, in which one unit is replaced by nothing and n stays the same",
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
        "declared; a list learned from rows is refused; a record with an undeclared label is not trained on, and no other "
        "record changes",
    ),
    Quantity(
        "columns and categories",
        "the header of the file, data.columns, data.categories, data.ordered, data.dates with its reference date, data.hashed, data.text",
        "declared; each cell is read separately, so no cell affects how another is read; a cell that cannot be read is missing, "
        "and an undeclared category is treated as no category; what is learned from labels (data.target_encoded) is refused",
    ),
    Quantity(
        "input shape",
        "data.size and data.channels, the shape of an array, the agreement; in a folder of images both must be set",
        "declared, or a property of the file that one record cannot change; a shape learned from image files is refused",
    ),
    Quantity(
        "scale of the inputs",
        'a file of constants (data.scale), data.bounds, data.pixel_range, or none for data.scale = "none" and for pixels',
        "declared; a fill value, mean or spread learned from rows is refused for every source",
    ),
    Quantity(
        "scale of the labels",
        "regression: the label's entry in the file of constants or in data.bounds",
        "declared; a mean or spread learned from rows is refused",
    ),
    Quantity(
        "released scale of the inputs",
        'data.scale = "dp": mean and spread of the inputs within data.bounds, by DP-AdaBN',
        "released with noise and charged as part of one event before the first round; each record's vector is clipped",
    ),
    Quantity(
        "split and limit",
        "a permutation of positions (of the sorted units if there is a unit column; of image files of one name together), from seed and the "
        "silo's name",
        "it does not depend on any label, value or size of a unit, so one record never moves another to a different part; a "
        "split by the rows' contents is refused (data.target_domain and data.split_column of a table, data.deal but by iid or size)",
    ),
    Quantity(
        "silo of each row",
        "the file, or data.silo_column",
        "declared public: a silo's guarantee covers its own rows",
    ),
    Quantity(
        "unit of each row",
        "data.unit_column",
        "which units exist is declared public; the number of a unit's rows affects only that unit. A row without a unit stops the "
        "silo before its first round",
    ),
    Quantity(
        "validation rows",
        "the split",
        "their number is public; their contents leave only as a noisy accuracy (privacy.metrics), charged each round",
    ),
    Quantity("weight of the update", "1 for every private silo", NO_ROW),
    Quantity(
        "seeds",
        "seed of the experiment and the silo's secret: the split",
        f"{NO_ROW}; noise, samples and dropout come from the operating system",
    ),
    Quantity(
        "initial weights",
        "the model's name and seed, model.weights, or model.pretrain_on",
        "public: a file with a tensor labelled local-only is refused; the user declares that a file without labels, or the rows "
        "of pretrain_on, are public",
    ),
    Quantity(
        "initial statistics of norms",
        "computed from synthetic rows with the initial weights, or read from the initial weights' file",
        NO_ROW,
    ),
    Quantity(
        "received tensors",
        "the server: averages of private updates",
        "they were released with noise before, and may be used again (post-processing)",
    ),
    Quantity(
        "local tensors by role",
        "head, norms and statistics at the silo after earlier private rounds",
        "each has a provenance label; a round that would start from a tensor without a label, or from one labelled local-only, "
        "is refused",
    ),
    Quantity(
        "method and optimiser",
        "[method], [train], model.freeze; the optimiser is new in each round",
        f"settings: {NO_ROW}. If they were tuned on private rows, privacy.tuning must say so",
    ),
    Quantity(
        "constants of DP-AdaBN",
        "clip radii, bounds and limits of a change are constants in the code (privacy/dp_adabn.py)",
        f"{NO_ROW}; shrinkage is computed from the noisy sum",
    ),
    Quantity(
        "form of a summary",
        "the bound of its vectors is a constant of the method; method.clip, method.dims and method.seed of ridge",
        f"{NO_ROW}; one vector a unit, of at most this length, is summed and released with noise, charged; the sum is divided "
        "by n, so that no count leaves. One that does not change with training leaves in the silo's first round only",
    ),
    Quantity(
        "way of taking gradients",
        "the method of computing per-example gradients is chosen with synthetic rows before the first round",
        f"{NO_ROW}; the number of rows that are computed at once is a constant",
    ),
    Quantity("canaries", "audit.canaries: synthetic records in a layer of their own", NO_ROW),
    Quantity(
        "whether the silo answers",
        "damaged files, rows without a unit, a spent budget, training that diverges, and the time that it takes",
        "not covered: the server learns that a silo did not answer, or answered late, and in a deployment one of six words for "
        "why; the reason itself stays at the silo",
    ),
)


def page() -> str:
    """Return the table as Markdown."""
    lines = [
        "# What a private update can depend on",
        "",
        "Generated from `fedtl/privacy/quantities.py`. A test compares the two, and checks every row of the table with neighbouring",
        "datasets (`tests/privacy/test_quantities.py`). Under `[privacy]` an update consists of noisy sums. It also depends on:",
        "",
        "| quantity | where it comes from | why that is safe |",
        "|---|---|---|",
        *(f"| {quantity.name} | {quantity.origin} | {quantity.safe} |" for quantity in QUANTITIES),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
