"""Turn a trained network into a file that runs without this project: torch.export (pt2), ONNX or OpenVINO."""

from experiments.export.commandline import command, export, main

__all__ = ["command", "export", "main"]
