"""Models by manifest: the files that a model consists of, by checksum, and where they come from.

Needs the standard library alone; signatures need the package `model-signing`, conversions `numpy` and `onnx`.
"""

from sluice_models.lock import Artifact, Lock, LockedModel, LockError, problems_of, recorded
from sluice_models.sources import FolderSource, HubSource, PackageSource

__all__ = [
    "Artifact",
    "FolderSource",
    "HubSource",
    "Lock",
    "LockError",
    "LockedModel",
    "PackageSource",
    "problems_of",
    "recorded",
]
