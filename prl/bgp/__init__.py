"""A small BGP-4 speaker on the public API, whose sessions outlive its host (RFC 4271, RFC 4760)."""
