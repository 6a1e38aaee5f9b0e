"""Five public articles on the linear algebra of AI, reproduced claim by claim.

`python -m experiments` runs them all; `python -m experiments list` names them.
"""
