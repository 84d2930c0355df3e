"""What a run folder says of the machine."""

import torch

from experiments.training.run_folder import peak_memory


def test_a_run_on_the_cpu_has_used_the_memory_of_its_process(monkeypatch):
    """Also on a machine with a GPU, where it has used none of that one's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert peak_memory(torch.device("cpu")) > 2**26


def test_a_run_on_a_gpu_has_used_what_its_tensors_took(monkeypatch):
    taken = {torch.device("cuda", 1): 3 * 2**30}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken[device])
    assert peak_memory(torch.device("cuda", 1)) == 3 * 2**30
