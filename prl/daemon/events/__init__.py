"""What happened: the catalogue of events, their log, and where records go."""
