"""Names of the outputs that models return besides those of their heads.

This module imports nothing, so that recipes are read fast.
"""

INTERMEDIATE_OUTPUTS = (
    "cache",
    "past_key_values",
    "mems",
    "hidden_states",
    "attentions",
    "global_attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
    "encoder_global_attentions",
)
