"""NVIDIA GPUs of this machine, read through NVML where its Python binding (nvidia-ml-py) and a GPU are there.

The CPU installation has neither, and nothing here needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MILLI = 1000


class Gpus:
    """Every NVIDIA GPU that NVML shows."""

    def __init__(self, nvml: Any) -> None:
        """nvml: the module `pynvml`, initialised."""
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
        self.names = tuple(_text(nvml.nvmlDeviceGetName(handle)) for handle in self._handles)

    def read(self) -> dict[str, list[float | None]]:
        """Share of the last moments in which a kernel ran (0 to 1), memory in use and power, one value per GPU.

        None where a GPU does not tell: a slice of one (MIG) has no utilisation, some cards no power.
        """
        nvml = self._nvml
        return {
            "gpu_busy": self._each(lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            "gpu_memory_bytes": self._each(lambda handle: float(nvml.nvmlDeviceGetMemoryInfo(handle).used)),
            "gpu_power_w": self._each(lambda handle: nvml.nvmlDeviceGetPowerUsage(handle) / _MILLI),
        }

    def _each(self, read: Callable[[Any], float]) -> list[float | None]:
        return [self._told(read, handle) for handle in self._handles]

    def _told(self, read: Callable[[Any], float], handle: Any) -> float | None:
        try:
            return read(handle)
        except self._nvml.NVMLError:
            return None


def find_gpus() -> Gpus | None:
    """This machine's GPUs; None where the binding, the driver or a GPU is missing."""
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore] # in the GPU lock alone
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        gpus = Gpus(pynvml)
    except pynvml.NVMLError:
        return None
    return gpus if gpus.names else None


def _text(name: str | bytes) -> str:
    """Old bindings give bytes."""
    return name.decode("utf8", "replace") if isinstance(name, bytes) else name
