"""The exceptions that callers catch; argument mistakes raise plain ``TypeError`` and ``ValueError``."""

__all__ = ["DeviceError", "TrainingError", "WeightsError"]


class WeightsError(ValueError):
    """A weights file is damaged, or its tensors do not fit its network: missing, extra, mis-shaped, non-finite."""


class TrainingError(RuntimeError):
    """A training run cannot go on: its numbers are not finite any more."""


class DeviceError(RuntimeError):
    """The device or instruction set asked for is not there; the message says what was found."""
