"""Training a profile for a model: load, calibrate, search, write."""

from unicuco_plugin.progress import Progress
from unicuco_plugin.training.run import JOURNAL, train_profile
from unicuco_plugin.training.shared import Shared
from unicuco_plugin.training.source import CalibrationText, ModelSource
from unicuco_plugin.training.subject import UnitOptions

__all__ = ["JOURNAL", "CalibrationText", "ModelSource", "Progress", "Shared", "UnitOptions", "train_profile"]
