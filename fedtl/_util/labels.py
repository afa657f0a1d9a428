"""The class number that says that a row has no label; in regression it is NaN."""

NO_LABEL = -1
