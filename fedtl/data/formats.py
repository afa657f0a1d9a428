"""File formats that hold rows and that fedtl does not read: how a file is converted, and which of them lie in a folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# By suffix: what makes of the file one that a source reads.
CONVERSIONS = {
    ".mat": 'scipy.io.loadmat, and numpy.savez("silo.npz", train_x=..., train_y=...)',
    ".arff": 'scipy.io.arff.loadarff, and pandas.DataFrame(...).to_csv("silo.csv", index=False)',
    ".xls": "Excel, saved as .xlsx",
    ".xlsm": "Excel, saved as .xlsx, which has no macros",
    ".xlsx": 'data.source = "table"',
    ".ods": 'pandas.read_excel(...).to_csv("silo.csv", index=False)',
    ".tsv": 'the name silo.csv, and data.delimiter = "\\t"',
    ".txt": "the name silo.csv if it is a table, and data.delimiter for its separator",
    ".dat": "the name silo.csv if it is a table, and data.delimiter for its separator",
    ".data": "the name silo.csv if it is a table, and data.delimiter for its separator",
    ".json": 'pandas.read_json(...).to_csv("silo.csv", index=False)',
    ".jsonl": 'pandas.read_json(..., lines=True).to_csv("silo.csv", index=False)',
    ".feather": 'pandas.read_feather(...).to_parquet("silo.parquet")',
    ".sas7bdat": 'pandas.read_sas(...).to_csv("silo.csv", index=False)',
    ".sav": 'pandas.read_spss(...).to_csv("silo.csv", index=False)',
    ".dta": 'pandas.read_stata(...).to_csv("silo.csv", index=False)',
    ".h5": 'h5py.File, and numpy.savez("silo.npz", train_x=..., train_y=...)',
    ".hdf5": 'h5py.File, and numpy.savez("silo.npz", train_x=..., train_y=...)',
    ".npy": 'numpy.load, and numpy.savez("silo.npz", train_x=..., train_y=...)',
    ".pt": 'torch.load, and numpy.savez("silo.npz", train_x=..., train_y=...)',
    ".pkl": 'numpy.savez("silo.npz", train_x=..., train_y=...), from the program that wrote it',
    ".dcm": 'data.source = "images"',
    ".nii": 'data.source = "images"',
    ".mha": "SimpleITK.ReadImage and SimpleITK.WriteImage, as .nii.gz",
    ".nrrd": "SimpleITK.ReadImage and SimpleITK.WriteImage, as .nii.gz",
    ".heic": "an image program, as .png or .jpg",
    ".svg": "an image program, as .png",
    ".csv": 'data.source = "table"',
    ".parquet": 'data.source = "table"',
    ".npz": 'data.source = "npz"',
    ".gz": "its content, unpacked",
    ".zip": "its content, unpacked",
}
UNIMPORTANT = {"thumbs.db", "desktop.ini", "__macosx"}


def is_hidden(path: Path) -> bool:
    """Return whether a system, not a person, put the file there."""
    return path.name.startswith(".") or path.name.lower() in UNIMPORTANT


def counted_suffixes(files: Sequence[Path]) -> str:
    """Return how many files of each kind there are: "3 .mat, 1 .txt"."""
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


def unread_data_files(folder: Path, read: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that can hold rows, but in none of the formats ``read``."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not is_hidden(entry))
    return [file for file in files if file.suffix.lower() in CONVERSIONS.keys() - set(read)]


def advice_on(path: Path) -> str:
    """Return how a file, or the files of a folder, are converted; "" where none is of a known format."""
    files = unread_data_files(path, ()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in CONVERSIONS]
    if not files:
        return ""
    suffix = Counter(file.suffix.lower() for file in files).most_common(1)[0][0]
    return f"; it has {counted_suffixes(files)}: to read {suffix}, use {CONVERSIONS[suffix]}"
