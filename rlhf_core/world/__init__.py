"""The embedded world: a support desk whose replies can be graded exactly."""
