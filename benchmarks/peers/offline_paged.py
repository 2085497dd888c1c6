"""Our engine alone: all prompts at once, greedy. Reads folder, texts and out; prints tokens a second."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from feilun.models import paged
from feilun.models.decoder import Manner, written


def main() -> None:
    """Measure."""
    told = json.load(sys.stdin)
    decoder = paged.load(Path(told["folder"]))
    prompts = [decoder.encode(text) for text in told["texts"]]
    written(decoder, prompts, Manner(most=8))
    begun = time.perf_counter()
    answers = written(decoder, prompts, Manner(most=told["out"]))
    tokens = sum(piece.tokens for pieces in answers for piece in pieces)
    print(json.dumps({"rate": tokens / (time.perf_counter() - begun)}))


if __name__ == "__main__":
    main()
