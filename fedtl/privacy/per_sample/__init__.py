"""The gradient of each example, by Opacus' hooks or by book-keeping, and the check that examples are independent."""
