"""What uptime monitors and load balancers ask."""
