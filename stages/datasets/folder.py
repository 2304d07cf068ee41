"""A user's own pictures: a folder per concept, as `shared/photo_folders.py` describes."""

from stages.core.dataset import datasets
from stages.datasets.shared.photo_folders import PhotoFolders


@datasets.register("folder")
class Folder(PhotoFolders):
    """Folders of pictures."""
