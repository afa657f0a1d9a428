"""
A column of text as a bag of words (``data.text``): each word is hashed to one of a fixed number of inputs (Weinberger et al., 2009,
"Feature Hashing for Large Scale Multitask Learning"). Nothing is learned from rows, so the inputs are the same at every silo, and no
row changes those of another.
"""

from collections.abc import Sequence

import numpy as np

from fedtl.data.source import Array


def hashed_words(texts: Sequence[str | None], width: int) -> Array:
    """
    Return [N, width] for N texts: signed counts of the words that each input stands for, divided by their root mean square over the
    row; 0 for a missing text and for one without a word. Words are scikit-learn's: two letters or digits or more, in lower case.
    """
    from sklearn.feature_extraction.text import HashingVectorizer  # takes a second to import

    counted = HashingVectorizer(n_features=width, norm="l2").transform([text or "" for text in texts])
    return np.asarray(counted.toarray(), np.float64) * width**0.5
