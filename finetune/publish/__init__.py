"""Floor 6: a run's adapter, merged model and GGUF files brought to the Hub, read back, and nothing private with them.

No torch. Only `publish` opens the network.
"""

from finetune.publish.laying import lay_out
from finetune.publish.releasing import Gated, Release
from finetune.publish.staging import File, Staged
from finetune.publish.uploading import Wish
from finetune.publish.verb import Asked, prepare, publish, staging

__all__ = ["Asked", "File", "Gated", "Release", "Staged", "Wish", "lay_out", "prepare", "publish", "staging"]
