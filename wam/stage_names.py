"""Names of the training stages, as plain data: options are read before torch is imported."""

__all__ = ["STAGE_NAMES", "TOKENIZER_STAGE"]

TOKENIZER_STAGE = "tokenizer"  # of `wam train`: its checkpoints hold no whole model
STAGE_NAMES = {"full": False, TOKENIZER_STAGE: False, "inverse": True, "distill": True}  # name -> needs --init
