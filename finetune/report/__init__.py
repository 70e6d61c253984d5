"""Floor 6: one page that says what a run's tuning did, how surely, and by which proofs. It only reads what is there."""

from finetune.report.verb import MARK, report, written

__all__ = ["MARK", "report", "written"]
