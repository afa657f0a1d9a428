"""Which texts are not read as the words that a person sees, because words are what stands between blanks and punctuation (``data.text``)."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

WORD = re.compile(r"\w\w")  # what the words of ``data.words`` begin with
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def unread_texts(columns: Mapping[str, Iterable[object]]) -> tuple[str, ...]:
    """Return a line for each kind of text that is not read as the words that a person sees, in these columns of words."""
    texts = {name: [str(cell) for cell in cells] for name, cells in columns.items()}
    return tuple(line for name, own in texts.items() for line in _unread_words(own, name))


def _unread_words(texts: Sequence[str], name: str) -> Iterator[str]:
    """Yield a line for texts of the column ``name`` without a word, and for those in a script that puts no blanks between words."""
    if unspaced := sum(bool(UNSPACED.search(text)) for text in texts):
        yield (
            f"{unspaced} of {len(texts)} texts of {name} are in a script without spaces between words, such as Chinese or Thai, so the "
            "text between two spaces counts as one word; put spaces between the words, or use a model of text"
        )
    if empty := sum(not WORD.search(text) for text in texts):
        yield f"{empty} of {len(texts)} texts of {name} have no word of two letters or digits"
