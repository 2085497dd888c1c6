"""OpenVINO GenAI's continuous batching alone, on the graph and tokens of ours. Reads folder, texts and out; prints
tokens a second. Its tokenizer stays unused: prompts come as ids, and nothing is turned into text."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
import openvino_tokenizers
import transformers
from tokenizers import Tokenizer


def main() -> None:
    """Measure."""
    told = json.load(sys.stdin)
    source = Path(told["folder"])
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    prompts = [tokenizer.encode(text).ids for text in told["texts"]]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, other in (("model.xml", "openvino_model.xml"), ("model.bin", "openvino_model.bin")):
            shutil.copyfile(source / name, place / other)
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(source)
        both = openvino_tokenizers.convert_tokenizer(theirs, with_detokenizer=True)
        for model, name in zip(both, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
            openvino.save_model(model, place / f"{name}.xml")
        schedule = openvino_genai.SchedulerConfig()
        schedule.cache_size = 1
        schedule.enable_prefix_caching = False
        settings = {"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}
        pipeline = openvino_genai.ContinuousBatchingPipeline(
            place, openvino_genai.Tokenizer(place), schedule, "CPU", **settings
        )
        print(json.dumps({"rate": _rate(pipeline, prompts, told["out"])}))


def _rate(pipeline: openvino_genai.ContinuousBatchingPipeline, prompts: list[list[int]], out: int) -> float:
    def run(most: int) -> int:
        manner = openvino_genai.GenerationConfig()
        manner.max_new_tokens, manner.do_sample = most, False
        given = [openvino.Tensor(np.array([one], np.int64)) for one in prompts]
        answers = pipeline.generate(given, [manner] * len(prompts))
        return sum(len(answer.m_generation_ids[0]) for answer in answers)

    run(8)
    begun = time.perf_counter()
    return run(out) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
