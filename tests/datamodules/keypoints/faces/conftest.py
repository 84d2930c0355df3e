"""Rendered faces that the tests of all sets of faces share."""

from pathlib import Path

import pytest

from datamodules.sample.face_layouts import sample_wflw


@pytest.fixture(scope="session")
def rendered(tmp_path_factory) -> Path:
    """A few faces in WFLW's layout."""
    return sample_wflw(tmp_path_factory.mktemp("faces") / "wflw", num_train=12, num_test=10)
