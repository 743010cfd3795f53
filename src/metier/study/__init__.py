"""A study: a recipe × arms × grid × seeds, and claims whose verdicts are computed.

``run`` runs one, ``table`` tells its claims in a few rows; ``plan.read`` checks a study and runs nothing.
"""

from metier.study.page import table as table
from metier.study.run import Show as Show
from metier.study.run import run as run
