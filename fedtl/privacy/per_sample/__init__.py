"""The gradient of each example, by Opacus' hooks or by book-keeping, and the proof that examples stay apart."""
