"""Few-shot heads: from the features of a few labelled rows (the support) to scores of other rows. One file a head."""
