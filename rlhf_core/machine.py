"""What a stage computed on, as far as it may change the bits of a result."""

import platform

import torch


def describe_machine() -> dict[str, str | int]:
    """Device, number of threads and kind of processor of this process."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "system": platform.system(),
    }
