"""Who owns a service: start, evidence, claims, fencing, planned moves, and stepping back."""
