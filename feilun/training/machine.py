"""Where a training computes, and in which numbers."""

from __future__ import annotations

import os

import torch

from feilun.errors import SettingError
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
