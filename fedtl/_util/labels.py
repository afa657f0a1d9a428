"""The class number of a row without a label. In regression, a row without a label has the value NaN."""

NO_LABEL = -1
