"""Side-by-side benchmarks; each module writes its results under experiments/results."""
