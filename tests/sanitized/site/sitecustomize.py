"""Every Python that has this folder on its path takes ``prl._core`` from PRL_SANITIZED_CORE."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType


class Finder:
    """The first that is asked for a module; knows one."""

    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "prl._core":
            return None
        file = os.environ["PRL_SANITIZED_CORE"]
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))


sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
