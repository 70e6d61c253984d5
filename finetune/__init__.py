"""finetune: a company's own Qwen3.6, from a YAML recipe to a proven adapter.

A recipe holds wishes, a plan holds consequences, a run is a folder.
"""

__version__ = "0.1.1"
