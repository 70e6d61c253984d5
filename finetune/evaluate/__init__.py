"""Floor 5: whether a tuning helped or did harm, and how sure that is: base, tuned model and GGUF, asked alike.

`evaluate` is in `verb`, `check_comparable` in `comparing`; nothing is imported here, so that scores cost no torch.
"""
