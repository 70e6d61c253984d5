"""What the proofs of training share: a small run that shows every error of a resume, and the comparison of two runs."""
