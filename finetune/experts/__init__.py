"""Floor 3: routed experts in 4 bits, with adapters of their own, on one GPU or spread over several."""

from finetune.experts.exchange import Exchange
from finetune.experts.lora import ExpertLora
from finetune.experts.routed import DOWN, GATE_UP, WEIGHTS, RoutedExperts
from finetune.experts.stacks import NF4Stack, PlainStack

__all__ = ["DOWN", "GATE_UP", "WEIGHTS", "Exchange", "ExpertLora", "NF4Stack", "PlainStack", "RoutedExperts"]
