"""Training a few weights instead of all: what is put into a transformers model, and what is written of it.

``methods.adapt`` does it; everything but ``options`` loads torch. Where peft has the method its code and its files are
used, so that peft and whatever reads peft's files (vLLM for LoRA) load ours, and ours loads theirs.
"""
