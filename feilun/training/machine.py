"""Where a training computes, and in which numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from feilun.errors import SettingError, StepError
from feilun.training.settings import FitSettings


def device(settings: FitSettings) -> torch.device:
    """The card of this process, or the processor.

    Raises:
        SettingError: a card is asked for and there is none.
    """
    has_card = torch.cuda.is_available()
    if settings.device == "cuda" and not has_card:
        raise SettingError("there is no CUDA device", where="device", hint='use device = "auto"')
    if settings.device == "cpu" or not has_card:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def enough_memory(where: str) -> Iterator[None]:
    """Say in words that memory did not suffice; any other error goes through.

    Raises:
        StepError: no memory is left (RELIABILITY 48); the last checkpoint stays.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's allocator on the processor raises a plain RuntimeError
        if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        raise StepError(
            "training stopped: there is not enough memory",
            where=where,
            hint="use a lower batch_tokens or batch_rows, with a higher accumulation; run again to go on",
            code="out-of-memory",
        ) from error


def autocast(settings: FitSettings, on: torch.device) -> torch.autocast:
    """Products in bfloat16 where that is faster, the rest in float32; in float32 where the settings ask for it."""
    fast = settings.precision == "bf16" or (settings.precision == "auto" and has_bfloat16(on))
    return torch.autocast(on.type, torch.bfloat16, enabled=fast)


def has_bfloat16(on: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16; without that it would be slower than float32."""
    return why(on).startswith("bf16")


def why(on: torch.device) -> str:
    """In which numbers ``precision = "auto"`` computes on a device, and for what reason."""
    if on.type == "cuda":
        name, (major, minor) = torch.cuda.get_device_name(on), torch.cuda.get_device_capability(on)
        if major >= 8:
            return f"bf16: {name} multiplies it (compute capability {major}.{minor})"
        return f"fp32: {name} (compute capability {major}.{minor}) does not multiply bf16, 8.0 and newer do"
    able = torch.cpu.get_capabilities()
    found = [flag for flag in ("amx_bf16", "avx512_bf16") if able.get(flag)]
    if found:
        return f"bf16: the processor multiplies it ({', '.join(found)})"
    return "fp32: the processor has neither amx_bf16 nor avx512_bf16, so that bf16 would be emulated"
