"""The chapters of the story, one module each: a tuple `EXPERIMENTS` of generator functions.

A long chapter goes on in modules of its name and an underscore (`seeing`, `seeing_inside`);
its pictures are drawn in `experiments.figures`.

An experiment takes the run's `seed` and whether it is `full`-size, and yields rows and
figures as it computes them. Its name and docstring are what the report shows.
"""
