"""Makes an ordinary single-device PyTorch program train as fast as the hardware allows."""

__version__ = "0.1.0"
