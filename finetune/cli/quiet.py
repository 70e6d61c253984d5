"""What has to be set before the libraries are imported: their chatter kept out of a user's terminal, one GPU shown.

Tests do not use it: there, a warning is an error.
"""

from __future__ import annotations

import logging
import os
import warnings

from finetune.hardware import detect, use_gpus, use_growing_segments


def quiet_libraries(gpus: int = 1) -> None:
    """Call it before torch or transformers are imported.

    Args:
        gpus: how many this process may see.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if os.isatty(2) else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore")
    for name in ("bitsandbytes", "transformers", "trl", "accelerate", "datasets", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not os.isatty(2):
        os.environ.setdefault("TQDM_DISABLE", "1")
    use_gpus(gpus)
    use_growing_segments()
    if detect().device == "cpu":  # else deepspeed, which accelerate imports, says on stdout that it found none
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
