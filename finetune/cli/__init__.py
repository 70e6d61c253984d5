"""Floor 7: words to one call to print. Nothing here imports torch; each command imports what it needs when it runs."""

from finetune.cli.app import main

__all__ = ["main"]
