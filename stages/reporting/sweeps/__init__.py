"""Studies that vary a number: each strategy against it, and the fronts of average score against forgetting."""
