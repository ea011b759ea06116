"""What can go wrong with a lab."""

from prl.errors import PrlError


class LabError(PrlError):
    """The lab could not be built, broken or mended as asked."""
