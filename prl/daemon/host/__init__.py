"""This host as prld needs it: interfaces, addresses, firewall state, ports, the service manager."""
