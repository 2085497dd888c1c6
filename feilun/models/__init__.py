"""Weights and how to run them: tokens, networks to train, engines to answer with.

Nothing is imported here, so that ``feilun.models.openvino`` answers in a process that never loads torch.
"""
