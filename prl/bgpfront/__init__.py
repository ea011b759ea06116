"""A front for an unmodified BGP daemon (docs/bgp-front.md): to it the peer, to the peer it."""
