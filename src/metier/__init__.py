"""metier turns a general language model into a specialist of a field, and proves what it gained, forgot and cost."""

__version__ = "0.1.0"
