"""Floor 5: what each step from the base to the file that is served keeps of the tuning, by held-out loss."""

from finetune.ledger.verb import MOST_TOKENS, ledger

__all__ = ["MOST_TOKENS", "ledger"]
