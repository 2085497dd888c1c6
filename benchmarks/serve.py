"""Serving beside its peers: make bench NAME=serve ARGS="encoder"; without names, everything."""

from __future__ import annotations

from benchmarks import serve_adapters, serve_decoder, serve_encoder, serve_load
from benchmarks.bench import Bench

serve = Bench("serve")
for name, measured in {
    "encoder": serve_encoder.measure,
    "encoder-start": serve_encoder.start,
    "decoder": serve_decoder.decoder,
    "load-overload": serve_load.overload,
    "load-swaps": serve_load.swaps,
    "load-sigterm": serve_load.told_to_stop,
    "adapters": serve_adapters.measure,
    "adapters-right": serve_adapters.right,
    "adapters-memory": serve_adapters.memory,
}.items():
    serve.figure(name)(measured)

if __name__ == "__main__":
    serve.main()
