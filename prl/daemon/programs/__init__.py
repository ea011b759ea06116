"""Programs that do not know of prl: their connections found, and kept protected."""
