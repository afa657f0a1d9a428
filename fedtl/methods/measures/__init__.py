"""How similar are two representations, and how well would features serve a task? Pure functions of features and labels."""
