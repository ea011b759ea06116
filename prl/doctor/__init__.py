"""What this host can do, what is missing or in the way, and how to mend it (`prlctl doctor`).

Each module looks at one thing and returns findings; examine() puts them together.
"""

from prl.doctor.examine import examine
from prl.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine"]
