"""What a silo's rows may cost: noise that hides each of them, and the book of what was spent."""
